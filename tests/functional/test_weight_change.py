from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from lit_sdpo.functional import merge_changes, weight_change


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_changes_of_several_tensors_are_those_of_one_long_vector():
    before = [random(4, 5), random(7, seed=1)]
    after = [x + 1e-3 * random(*x.shape, seed=2) for x in before]
    change = weight_change(before, after, eta=1e-3, atol=1e-3)
    a, b = (torch.cat([x.flatten() for x in xs]).numpy() for xs in (before, after))
    assert change.relative_l2.item() == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a))
    assert change.l2.item() == pytest.approx(np.linalg.norm(b - a))
    assert change.max_abs_change.item() == pytest.approx(np.abs(b - a).max())
    limit = 1e-3 * np.maximum(np.abs(a), np.abs(b))
    assert change.relative_eta_sparsity.item() == pytest.approx((np.abs(b - a) <= limit).mean())
    assert change.absolute_sparsity.item() == pytest.approx((np.abs(b - a) <= 1e-3).mean())
    parts = [weight_change([x], [y], eta=1e-3, atol=1e-3) for x, y in zip(before, after, strict=True)]
    for got, expected in zip(merge_changes(parts), change, strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected))


def test_less_than_half_a_bfloat16_step_is_no_change():
    """Around 1 a bfloat16 step is 2^-7; ties go to the even neighbour."""
    before = torch.ones(4)
    after = 1 + torch.tensor([0.49, 0.5, 0.51, 0.0]) * 2**-7
    assert weight_change([before], [after]).bf16_sparsity == 0.75
    assert weight_change([before.bfloat16()], [after.bfloat16()]).bf16_sparsity == 0.75


def test_sparsity_counts_exactly_where_float32_would_not():
    n = 2**24 + 4
    change = weight_change([torch.zeros(n, dtype=torch.bfloat16)], [torch.zeros(n, dtype=torch.bfloat16)])
    assert change.same_bf16 == n
    assert change.bf16_sparsity == 1


def test_large_tensors_are_compared_in_blocks(monkeypatch):
    before, after = random(9, 5), random(9, 5, seed=1)
    whole = weight_change([before], [after])
    monkeypatch.setattr(sys.modules["lit_sdpo.functional.weight_change"], "BLOCK", 7)
    for got, expected in zip(weight_change([before.mT], [after.mT]), whole, strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected))


def test_other_shapes_are_no_change():
    with pytest.raises(ValueError, match="same shape"):
        weight_change([torch.zeros(2, 3)], [torch.zeros(3, 2)])
