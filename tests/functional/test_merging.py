from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.functional import lines_strengths, merge_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ends_are_bit_for_bit_and_copies(dtype):
    before, after = torch.randn(2, 50, dtype=torch.float64).to(dtype)
    after[0] = torch.inf
    for strength, expected in ((0, before), (1, after)):
        (merged,) = merge_weights([before], [after], strength)
        assert torch.equal(merged, expected)
        assert merged.dtype == dtype
        merged.zero_()
        assert expected.abs().sum() > 0


def test_entry_by_entry():
    before, after = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    merged = merge_weights(list(before), list(after), [0.3, 0.9, 1.5])
    for row, strength in enumerate([0.3, 0.9, 1.5]):
        for column in range(4):
            a, b = float(before[row, column]), float(after[row, column])
            assert float(merged[row][column]) == pytest.approx(a + strength * (b - a), rel=1e-12)


def test_bfloat16_weights_are_merged_in_float32():
    before, after = torch.tensor([1.0]).bfloat16(), torch.tensor([1.0078125]).bfloat16()
    exact = 0.7 * 0.0078125 + 1  # rounds up to the next bfloat16; half a step would be lost on the way
    assert merge_weights([before], [after], 0.7)[0].item() == torch.tensor(exact).bfloat16().item() == 1.0078125


def test_parameters_are_merged_without_a_graph():
    before, after = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.ones(2))
    (merged,) = merge_weights([before], [after], 0.25)
    assert merged.grad_fn is None
    assert not merged.requires_grad
    assert after.tolist() == [1, 1]


def test_strengths_rise_with_depth_and_what_is_outside_keeps_the_first():
    assert lines_strengths(0.1, 0.6, 4) == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert lines_strengths(0.1, 0.6, 4, [None, 4, 4, 1]) == pytest.approx([0.1, 0.7, 0.7, 0.1])
    assert lines_strengths(0.4, 0.5, 1) == [0.4]
    assert lines_strengths(0.4, 0.0, 3) == [0.4] * 3


def test_mistakes():
    one = [torch.zeros(2)]
    for call, message in [
        (lambda: merge_weights(one, one * 2, 0.5), "as many"),
        (lambda: merge_weights(one, one, [0.5, 0.5]), "as many"),
        (lambda: merge_weights(one, [torch.zeros(3)], 0.5), "other shapes"),
        (lambda: merge_weights(one, one, math.nan), "finite"),
        (lambda: lines_strengths(0.1, 0.2, 0), "at least 1"),
        (lambda: lines_strengths(0.1, 0.2, 3, [4]), "1 to 3"),
        (lambda: lines_strengths(0.1, 0.2, 3, [0]), "1 to 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
