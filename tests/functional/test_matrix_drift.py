from __future__ import annotations

import itertools
import math

import pytest
import torch

from lit_sdpo import functional as F
from lit_sdpo.functional.matrix_drift import MatrixDrift, matrix_drift


def matrices(n=60, m=40, eps=1e-3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(n, m, generator=generator), torch.randn(m, m, generator=generator)
    before = (left @ torch.diag(0.85 ** torch.arange(m)) @ right).to(dtype)
    return before, (before + eps * torch.randn(n, m, generator=generator)).to(dtype)


def test_the_numbers_are_those_of_the_single_functions():
    before, after = matrices()
    got = matrix_drift(before, after, rank=0.1, share=0.2, threshold=1e-3)
    a, b = before.double(), after.double()
    turned = F.subspace_change(a, b, 4)
    s = torch.linalg.svdvals(a)
    expected = MatrixDrift(
        relative_norm=(torch.linalg.norm(b - a) / torch.linalg.norm(a)).item(),
        bf16_sparsity=(before.bfloat16() == after.bfloat16()).double().mean().item(),
        spectrum_shift=turned.spectrum_shift.item(),
        left_angle=math.degrees(turned.left_angles[-1]),
        right_angle=math.degrees(turned.right_angles[-1]),
        left_overlap=turned.left_overlap.item(),
        right_overlap=turned.right_overlap.item(),
        gap=((s[3] - s[4]) / s[0]).item(),
        mask_overlap=F.principal_mask_overlap(a, b, 4, 0.2).item(),
        mask_update=F.principal_mask_update(a, b, 4, 0.2).item(),
        mask_update_absolute=F.principal_mask_update(a, b, 4, 0.2, threshold=1e-3).item(),
        stable_rank=F.stable_rank(b - a).item(),
    )
    assert got._asdict() == pytest.approx(expected._asdict(), rel=1e-5)
    assert 0 < got.mask_update_absolute < 1
    assert 0 < got.mask_update < 1


def test_updates_of_the_principal_mask_tell_learning_rates_apart():
    """Fifty steps of Adam's size: an absolute threshold counts all or nothing, what bfloat16 shows tells them apart."""
    generator = torch.Generator().manual_seed(0)
    before = 0.02 * torch.randn(128, 96, generator=generator)
    walk = torch.randn(50, 128, 96, generator=generator).sum(0)
    found = [matrix_drift(before, before + rate * walk) for rate in (1e-6, 3e-6, 1e-5, 1e-4)]
    assert [round(drift.mask_update_absolute, 2) for drift in found[2:]] == [0.1, 0.1]  # the share, twice
    shares = [drift.mask_update for drift in found]
    assert all(more > 1.25 * less for less, more in itertools.pairwise(shares))
    assert shares[2] < 0.08


def test_truncated_numbers_are_close_to_the_full_ones():
    before, after = matrices(120, 90, eps=1e-2)
    full, short = (matrix_drift(before, after, rank=6, full_up_to=size)._asdict() for size in (512, 0))
    known_shift = F.subspace_change(before.double(), after.double(), 6, power_iterations=2).spectrum_shift.item()
    # Of the leading values only. A float32 singular value is off by a few eps of the largest, on every CPU by others,
    # so the shift is off by as much whatever its size.
    rounding = 16 * torch.finfo(torch.float32).eps
    assert short.pop("spectrum_shift") == pytest.approx(known_shift, rel=1e-3, abs=rounding)
    assert rounding < 0.02 * known_shift
    full.pop("spectrum_shift")
    assert short.pop("stable_rank") == pytest.approx(full.pop("stable_rank"), rel=0.05)
    assert short == pytest.approx(full, rel=0.02, abs=1e-6)


@pytest.mark.parametrize("full_up_to", [512, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_that_did_not_move(full_up_to, dtype):
    before, _ = matrices(dtype=dtype)
    got = matrix_drift(before, before, rank=3, full_up_to=full_up_to)
    assert (got.relative_norm, got.spectrum_shift, got.stable_rank, got.mask_update_absolute) == (0, 0, 0, 0)
    assert got.mask_update == 0
    assert (got.bf16_sparsity, got.mask_overlap) == (1, 1)
    assert got.left_angle < 1e-3
    assert got.left_overlap == pytest.approx(1)


@pytest.mark.parametrize("full_up_to", [512, 0])
def test_the_weights_are_left_alone(full_up_to):
    before, after = matrices()
    kept = before.clone(), after.clone()
    matrix_drift(before, after, rank=3, full_up_to=full_up_to)
    assert torch.equal(before, kept[0])
    assert torch.equal(after, kept[1])


@pytest.mark.parametrize(("rank", "directions"), [(0.1, 4), (1, 1), (7, 7), (1e-6, 1)])
def test_a_rank_is_a_share_or_a_number(rank, directions):
    before, after = matrices()
    got = matrix_drift(before, after, rank=rank)
    expected = F.subspace_change(before.double(), after.double(), directions)
    assert got.left_angle == pytest.approx(math.degrees(expected.left_angles[-1]))
