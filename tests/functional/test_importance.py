from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.functional import importance_clip, mismatch_weights

OLD = torch.tensor([[0.0, math.log(3.0), -5.0], [0.0, 0.0, 9.0]])
ROLLOUT = torch.tensor([[math.log(2.0), 0.0, -5.0], [math.log(4.0), 0.0, math.nan]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cap": 2.0}, [[0.5, 2.0, 1.0], [0.25, 1.0, 0.0]]),
        ({"mode": "mask", "cap": 2.0, "floor": 0.5}, [[0.5, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        ({"level": "sequence", "cap": 1.2}, [[1.2, 1.2, 1.2], [0.25, 0.25, 0.0]]),
        ({"level": "sequence", "mode": "mask", "cap": 2.0, "floor": 0.5}, [[1.5, 1.5, 1.5], [0.0, 0.0, 0.0]]),
    ],
)
def test_by_hand(options, expected):
    torch.testing.assert_close(mismatch_weights(OLD, ROLLOUT, mask=MASK, **options), torch.tensor(expected))


def test_the_same_log_probabilities_weigh_one():
    assert (mismatch_weights(OLD, OLD) == 1).all()
    assert (importance_clip(OLD, OLD, clip=2.0) == 1).all()


def test_weights_have_no_gradient():
    x = OLD.clone().requires_grad_()
    assert not mismatch_weights(x, OLD).requires_grad
    assert not importance_clip(x, OLD, 2.0).requires_grad


def test_an_overflowing_ratio_is_capped_or_dropped():
    far = torch.tensor([[200.0]])
    assert mismatch_weights(far, -far, cap=2.0) == 2
    assert mismatch_weights(far, -far, mode="mask", cap=2.0) == 0
    assert importance_clip(far, -far, clip=2.0) == 2


def test_clip_ignores_masked_places():
    got = importance_clip(torch.tensor([math.nan, 1.0]), torch.tensor([0.0, 0.0]), 5.0, torch.tensor([False, True]))
    torch.testing.assert_close(got, torch.tensor([1.0, math.e]))


def test_unknown_mode():
    with pytest.raises(ValueError, match="unknown"):
        mismatch_weights(OLD, OLD, mode="clip")
