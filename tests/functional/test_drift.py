from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import cdist, pdist

from lit_sdpo.functional import (
    intersection_over_union,
    kl_estimates,
    median_distance,
    merge_changes,
    principal_angles,
    principal_mask,
    principal_mask_overlap,
    principal_mask_update,
    squared_mmd,
    stable_rank,
    subspace_change,
    total_variation,
    weight_change,
)


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
    assert principal_mask_update(w, touched, rank=2, share=0.25) == 1
    assert principal_mask_update(w, torch.where(mask, w, w + 1e-4), rank=2, share=0.25) == 0
    assert principal_mask_update(w, touched, rank=2, share=0.25, threshold=1e-3) == 0
    empty = torch.zeros(3, dtype=torch.bool)
    assert intersection_over_union(empty, empty) == 0


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("sigma", [None, 0.7])
def test_mmd_against_scipy(sigma, unbiased):
    x, y = random(6, 3), random(9, 3, seed=1) + 0.5
    value, width = squared_mmd(x, y, sigma=sigma, unbiased=unbiased)
    h = sigma or np.median(pdist(np.concatenate([x, y])))
    kernel = {key: np.exp(-(cdist(a, b) ** 2) / (2 * h**2)) for key, a, b in (("xx", x, x), ("yy", y, y), ("xy", x, y))}
    within = [k[~np.eye(len(k), dtype=bool)].mean() if unbiased else k.mean() for k in (kernel["xx"], kernel["yy"])]
    assert width.item() == pytest.approx(h)
    assert value.item() == pytest.approx(sum(within) - 2 * kernel["xy"].mean())


def test_mmd_at_its_ends():
    x = random(8, 3)
    assert squared_mmd(x, x, unbiased=False)[0].item() == pytest.approx(0, abs=1e-12)
    assert squared_mmd(x, x)[0] < 0
    same = torch.ones(4, 3)
    value, width = squared_mmd(same, same)
    assert (value, width) == (0, 0)
    far = torch.cat([torch.zeros(3, 2), torch.ones(1, 2)])
    assert squared_mmd(far, far, unbiased=False)[0] == 0  # median 0, yet not all equal
    assert median_distance(torch.zeros(1, 1), torch.tensor([[3.0], [5.0]])).item() == 3


def test_kl_estimates_converge_to_the_kl():
    p, q = random(2, 12).log_softmax(-1)
    ids = torch.multinomial(p.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    exact = (p.exp() * (p - q)).sum().item()
    got = kl_estimates(p[ids], q[ids])
    assert got["k1"].item() == pytest.approx(exact, rel=0.02)
    assert got["k3"].item() == pytest.approx(exact, rel=0.02)
    assert got["k2"].item() == pytest.approx(((p.exp() * (p - q).square()).sum() / 2).item(), rel=0.02)
    mask = torch.tensor([True, False])
    assert kl_estimates(torch.tensor([1.0, torch.nan]), torch.zeros(2), mask)["k1"] == 1
    assert kl_estimates(torch.zeros(2), torch.zeros(2), ~mask & mask)["k3"] == 0
    assert total_variation(p, q).item() == pytest.approx(0.5 * np.abs(np.exp(p.numpy()) - np.exp(q.numpy())).sum())
