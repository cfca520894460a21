from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from lit_sdpo.functional import (
    intersection_over_union,
    leading_directions,
    principal_angles,
    principal_mask,
    principal_mask_overlap,
    principal_mask_update,
    stable_rank,
    subspace_change,
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-5, 0.1, 0.7, 0.8, 1.5])
def test_a_rotation_by_a_known_angle(angle, dtype):
    a = torch.eye(5, dtype=dtype)[:, :2]
    b = a.clone()
    b[:, 1] = 0
    b[1, 1], b[3, 1] = np.cos(angle), np.sin(angle)
    got = principal_angles(a, b)
    assert got[0].item() == pytest.approx(0, abs=1e-12)
    assert got[1].item() == pytest.approx(angle, rel=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("eps", [1e-9, 1e-3, 1.0])
def test_angles_against_scipy(eps):
    before, after = random(9, 6), random(9, 6) + eps * random(9, 6, seed=3)
    got = subspace_change(before, after, rank=3)
    (u0, s0, v0), (u1, s1, v1) = (scipy.linalg.svd(x.numpy(), full_matrices=False) for x in (before, after))
    left = scipy.linalg.subspace_angles(u0[:, :3], u1[:, :3])[::-1]
    right = scipy.linalg.subspace_angles(v0[:3].T, v1[:3].T)[::-1]
    np.testing.assert_allclose(got.left_angles.numpy(), left, rtol=1e-5, atol=1e-14)
    np.testing.assert_allclose(got.right_angles.numpy(), right, rtol=1e-5, atol=1e-14)
    assert got.spectrum_shift.item() == pytest.approx(np.linalg.norm(s1 - s0) / np.linalg.norm(s0))
    assert got.left_overlap.item() == pytest.approx(np.mean(np.cos(left) ** 2))
    assert got.gap.item() == pytest.approx(s0[2] - s0[3])


def test_perturbation_bounds():
    """Wedin: sin theta <= ‖dW‖_2 / gap with the perturbed spectrum; Mirsky: ‖d sigma‖ <= ‖dW‖_F."""
    for seed in range(20):
        before, change = random(8, 6, seed=seed), 0.05 * random(8, 6, seed=100 + seed)
        got = subspace_change(before, before + change, rank=2)
        s0, s1 = torch.linalg.svdvals(before), torch.linalg.svdvals(before + change)
        assert got.spectrum_shift * s0.norm() <= change.norm() + 1e-12
        gap = s0[1] - s1[2]
        if gap > 0:
            largest = max(got.left_angles.max(), got.right_angles.max()).sin()
            assert largest <= np.sqrt(2) * torch.linalg.matrix_norm(change, 2) / gap + 1e-12


def test_a_rank_beyond_the_matrix_takes_all_of_it():
    got = subspace_change(random(4, 3), random(4, 3, seed=1), rank=10)
    assert got.left_angles.shape == (3,)
    assert got.right_angles.abs().max() < 1e-7  # all of a 3-dimensional space
    assert got.gap.item() == pytest.approx(torch.linalg.svdvals(random(4, 3))[-1].item())


def test_stable_rank():
    assert stable_rank(torch.eye(7)).item() == pytest.approx(7)
    assert stable_rank(torch.outer(torch.arange(1.0, 4), torch.ones(5))).item() == pytest.approx(1)
    assert stable_rank(torch.zeros(3, 4)) == 0
    w = random(5, 6)
    assert stable_rank(w).item() == pytest.approx((w.norm() / torch.linalg.matrix_norm(w, 2)).square().item())


def test_principal_masks():
    w = random(10, 12)
    u, s, v = np.linalg.svd(w.numpy(), full_matrices=False)
    size = np.abs((u[:, :2] * s[:2]) @ v[:2])
    mask = principal_mask(w, rank=2, share=0.25)
    assert mask.sum() == 30
    assert size[mask.numpy()].min() > size[~mask.numpy()].max()
    assert principal_mask_overlap(w, 3 * w, rank=2) == 1
    assert 0 < principal_mask_overlap(w, random(10, 12, seed=1), rank=2, share=0.3) < 1
    touched = torch.where(mask, w + 1e-4, w)
    assert principal_mask_update(w, touched, rank=2, share=0.25, threshold=1e-5) == 1
    doubled = torch.where(mask, 2 * w, w * (1 + 1e-4))  # a bfloat16 copy shows one of the two
    assert principal_mask_update(w, doubled, rank=2, share=0.25).item() == pytest.approx(1, abs=0.15)
    assert principal_mask_update(w, torch.where(mask, w, w + 1e-4), rank=2, share=0.25, threshold=1e-5) == 0
    assert principal_mask_update(w, touched, rank=2, share=0.25, threshold=1e-3) == 0
    empty = torch.zeros(3, dtype=torch.bool)
    assert intersection_over_union(empty, empty) == 0


def decaying(n, m, rate, seed=0):
    """A matrix whose singular values fall by a factor."""
    r = min(n, m)
    u, v = (torch.linalg.qr(random(k, r, seed=seed + i))[0] for i, k in enumerate((n, m)))
    return (u * rate ** torch.arange(r, dtype=torch.float64)) @ v.mT


@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
def test_a_truncated_decomposition_is_the_full_one_where_the_spectrum_decays(shape):
    before = decaying(*shape, 0.8)
    after = before + 1e-4 * random(*shape, seed=5)
    full, short = (leading_directions(before, 12, power_iterations=q) for q in (None, 2))
    assert short.values.shape == (13,)
    torch.testing.assert_close(short.values, full.values[:13], rtol=1e-6, atol=0)
    torch.testing.assert_close(short.reconstruction(), full.reconstruction(), rtol=0, atol=1e-4)
    for basis in (short.left, short.right):
        torch.testing.assert_close(basis.mT @ basis, torch.eye(12, dtype=basis.dtype))
    exact, close = (subspace_change(before, after, 12, power_iterations=q) for q in (None, 2))
    for name in ("left_angles", "right_angles"):
        assert getattr(close, name).max().item() == pytest.approx(getattr(exact, name).max().item(), rel=0.01)
    assert close.gap.item() == pytest.approx(exact.gap.item(), rel=1e-3)


def test_errors_of_truncation_cancel_in_a_comparison():
    """On a flat spectrum the directions found are not the leading ones, yet equal matrices have none between them."""
    before = random(80, 70)
    full, short = (leading_directions(before, 8, power_iterations=q) for q in (None, 2))
    assert principal_angles(full.left, short.left).max() > 0.1
    assert subspace_change(before, before.clone(), 8, power_iterations=2).left_angles.max() < 1e-7
    change = 1e-5 * random(80, 70, seed=1)
    exact, close = (subspace_change(before, before + change, 8, power_iterations=q) for q in (None, 2))
    assert close.left_angles.max() < 10 * exact.left_angles.max()
    torch.testing.assert_close(short.values, full.values[:9], rtol=0.05, atol=0)
    assert (short.values <= full.values[:9] + 1e-9).all()


def test_a_truncated_rank_near_the_size_is_full():
    w = random(20, 15)
    torch.testing.assert_close(leading_directions(w, 8, power_iterations=2).values, torch.linalg.svdvals(w))


def test_the_truncated_stable_rank_is_a_close_upper_bound():
    w = random(200, 120)
    exact, close = stable_rank(w), stable_rank(w, power_iterations=4)
    assert exact <= close <= 1.05 * exact
    assert stable_rank(torch.zeros(40, 40), power_iterations=4) == 0
    assert stable_rank(1e-30 * w.float()).item() == pytest.approx(exact.item(), rel=1e-4)


def test_decompositions_leave_the_global_generator_alone():
    state = torch.random.get_rng_state()
    leading_directions(random(50, 40), 3, power_iterations=1)
    assert torch.equal(state, torch.random.get_rng_state())
