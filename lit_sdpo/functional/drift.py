"""How far a model moved: in its weights, in their subspaces, and in what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.policy_loss import kl_penalty
from lit_sdpo.functional.precision import at_least_float32, fill_masked


class WeightChange(NamedTuple):
    """Sums over one tensor or several; they add up, and the properties are ratios of them.

    Attributes:
        squared_change: ``sum (after - before)^2``.
        squared_norm: ``sum before^2``.
        max_abs_change: Largest ``|after - before|``.
        same_bf16: Entries equal after rounding both to bfloat16.
        same_relative: Entries with ``|change| <= eta * max(|before|, |after|)``.
        same_absolute: Entries with ``|change| <= atol``.
        entries: Number of entries.
    """

    squared_change: Tensor
    squared_norm: Tensor
    max_abs_change: Tensor
    same_bf16: Tensor
    same_relative: Tensor
    same_absolute: Tensor
    entries: int

    @property
    def l2(self) -> Tensor:
        """Euclidean norm of the change."""
        return self.squared_change.sqrt()

    @property
    def relative_l2(self) -> Tensor:
        """``‖after - before‖ / ‖before‖``, over all tensors together."""
        return (self.squared_change / self.squared_norm).sqrt()

    @property
    def bf16_sparsity(self) -> Tensor:
        """Share of entries that a bfloat16 copy would not show as changed."""
        return self.same_bf16.double() / self.entries

    @property
    def relative_eta_sparsity(self) -> Tensor:
        """Share of entries that changed by at most ``eta``, relatively (arXiv 2511.08567, eta 1e-3)."""
        return self.same_relative.double() / self.entries

    @property
    def absolute_sparsity(self) -> Tensor:
        """Share of entries that changed by at most ``atol``."""
        return self.same_absolute.double() / self.entries


def weight_change(
    before: Sequence[Tensor], after: Sequence[Tensor], *, eta: float = 1e-3, atol: float = 1e-5
) -> WeightChange:
    """Change of some tensors, taken together.

    One pair of tensors is upcast at a time. bfloat16 rounding goes to the nearest even value, from float32; float32
    weights that move less than half a bfloat16 step count as unchanged there.

    Args:
        before: Tensors of any shapes.
        after: Tensors of the same shapes in the same order.
        eta: Relative tolerance of ``relative_eta_sparsity``.
        atol: Absolute tolerance of ``absolute_sparsity``.

    Example:
        >>> change = weight_change([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
        >>> change.relative_l2, change.bf16_sparsity.item()
        (tensor(0.1000), 0.5)
    """
    parts = []
    for old, new in zip(before, after, strict=True):
        a, b = at_least_float32(old.detach()), at_least_float32(new.detach()).to(old.device)
        change = (b - a).abs()
        parts.append(
            WeightChange(
                change.square().sum(),
                a.square().sum(),
                change.max(),
                (a.float().bfloat16() == b.float().bfloat16()).sum(),
                (change <= eta * torch.maximum(a.abs(), b.abs())).sum(),
                (change <= atol).sum(),
                a.numel(),
            )
        )
    return merge_changes(parts)


def merge_changes(changes: Sequence[WeightChange]) -> WeightChange:
    """Changes of several sets of tensors as one, on the CPU.

    Args:
        changes: At least one.
    """

    def total(values: Iterable[Tensor]) -> Tensor:
        return torch.stack([v.cpu() for v in values]).sum()

    return WeightChange(
        total(c.squared_change for c in changes),
        total(c.squared_norm for c in changes),
        torch.stack([c.max_abs_change.cpu() for c in changes]).max(),
        total(c.same_bf16 for c in changes),
        total(c.same_relative for c in changes),
        total(c.same_absolute for c in changes),
        sum(c.entries for c in changes),
    )


class SubspaceChange(NamedTuple):
    """Rotation of the leading singular subspaces and shift of the spectrum.

    Attributes:
        left_angles: Principal angles between the leading left subspaces, ascending, radians, [r].
        right_angles: The same for the right subspaces.
        left_overlap: ``mean cos^2`` of the left angles, 1 for equal subspaces.
        right_overlap: The same for the right.
        spectrum_shift: ``‖sigma(after) - sigma(before)‖ / ‖sigma(before)‖`` over all singular values (the paper's NSS).
        gap: ``sigma_r - sigma_(r+1)`` before; where it is near 0 the subspace, and so its angles, are ill-defined.
    """

    left_angles: Tensor
    right_angles: Tensor
    left_overlap: Tensor
    right_overlap: Tensor
    spectrum_shift: Tensor
    gap: Tensor


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Principal angles between the column spaces of two orthonormal bases, ascending, in radians.

    ``cos theta_i`` are the singular values of ``a.T @ b``, ``sin theta_i`` those of ``b - a @ a.T @ b``. Small angles
    come from the sines, large ones from the cosines, so none loses its digits (Bjorck and Golub 1973): ``arccos`` alone
    cannot tell 1e-9 from 0.

    Args:
        a: [n, r], orthonormal columns.
        b: [n, r], orthonormal columns.

    Returns:
        [r].
    """
    inner = a.mT @ b
    cosines = torch.linalg.svdvals(inner).clamp(max=1.0)  # descending: angles ascend
    sines = torch.linalg.svdvals(b - a @ inner).flip(0).clamp(max=1.0)
    return torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())


def subspace_change(before: Tensor, after: Tensor, rank: int) -> SubspaceChange:
    """Compare the leading singular subspaces of two matrices (arXiv 2607.01763, appendix A; arXiv 2511.08567).

    Computed in the dtype of the matrices, in float32 at least, where angles are known to about 1e-6 over the relative
    gap; give float64 for smaller ones.

    Args:
        before: [n, m].
        after: [n, m].
        rank: Dimension r of the subspaces; at most ``min(n, m)`` are taken.
    """
    u0, s0, v0 = torch.linalg.svd(at_least_float32(before.detach()), full_matrices=False)
    u1, s1, v1 = torch.linalg.svd(at_least_float32(after.detach()), full_matrices=False)
    r = min(rank, len(s0))
    left, right = principal_angles(u0[:, :r], u1[:, :r]), principal_angles(v0[:r].mT, v1[:r].mT)
    return SubspaceChange(
        left,
        right,
        left.cos().square().mean(),
        right.cos().square().mean(),
        (s1 - s0).norm() / s0.norm(),
        s0[r - 1] - (s0[r] if r < len(s0) else 0.0),
    )


def stable_rank(matrix: Tensor) -> Tensor:
    """``‖W‖_F^2 / ‖W‖_2^2``: the number of directions that carry the norm; 0 for a zero matrix.

    Args:
        matrix: [n, m], for example a change of weights.
    """
    s = torch.linalg.svdvals(at_least_float32(matrix.detach()))
    return torch.where(s[0] > 0, (s / s[0].clamp(min=torch.finfo(s.dtype).tiny)).square().sum(), 0.0)


def principal_mask(matrix: Tensor, rank: int, share: float = 0.1) -> Tensor:
    """Entries that are large in the rank-r reconstruction ``W_r``: ``|W_r[i, j]|`` among the largest ``share``.

    Args:
        matrix: [n, m].
        rank: r.
        share: Share of entries in the mask. The paper leaves its threshold open; 10 % fits its plots.

    Returns:
        bool [n, m].
    """
    u, s, v = torch.linalg.svd(at_least_float32(matrix.detach()), full_matrices=False)
    size = ((u[:, :rank] * s[:rank]) @ v[:rank]).abs().flatten()
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[size.topk(max(1, round(share * len(size)))).indices] = True
    return mask.view(matrix.shape)


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """``|A and B| / |A or B|`` of two boolean masks; 0 where both are empty.

    Args:
        a: bool [...].
        b: bool [...].
    """
    return (a & b).sum() / (a | b).sum().clamp(min=1)


def principal_mask_overlap(before: Tensor, after: Tensor, rank: int, share: float = 0.1) -> Tensor:
    """Are the principal entries still the same? IoU of both principal masks (arXiv 2607.01763, appendix A).

    Args:
        before: [n, m].
        after: [n, m].
        rank: Rank of the reconstruction.
        share: Share of entries in each mask.
    """
    return intersection_over_union(principal_mask(before, rank, share), principal_mask(after, rank, share))


def principal_mask_update(
    before: Tensor, after: Tensor, rank: int, share: float = 0.1, *, threshold: float = 1e-5
) -> Tensor:
    """Does the change touch principal entries? IoU of the principal mask before and ``|after - before| >= threshold``.

    From arXiv 2607.01763, appendix A, which leaves the threshold open.

    Args:
        before: [n, m].
        after: [n, m].
        rank: Rank of the reconstruction.
        share: Share of entries in the principal mask.
        threshold: Smallest change that counts.
    """
    change = (at_least_float32(after.detach()) - at_least_float32(before.detach())).abs()
    return intersection_over_union(principal_mask(before, rank, share), change >= threshold)


def median_distance(x: Tensor, y: Tensor) -> Tensor:
    """Median Euclidean distance of the pooled rows, each pair once; mean of the middle two for an even count.

    Args:
        x: [n, d].
        y: [m, d].
    """
    distances = torch.nn.functional.pdist(at_least_float32(torch.cat([x, y]))).sort().values
    middle = len(distances) // 2
    return (distances[middle] + distances[-middle - 1]) / 2


def squared_mmd(
    x: Tensor, y: Tensor, *, sigma: Tensor | float | None = None, unbiased: bool = True
) -> tuple[Tensor, Tensor]:
    """Squared maximum mean discrepancy with the kernel ``k = exp(-‖a - b‖^2 / (2 sigma^2))`` (Gretton et al. 2012).

    Unbiased (U-statistic): ``mean_{i!=j} k(x_i, x_j) + mean_{i!=j} k(y_i, y_j) - 2 mean k(x_i, y_j)``, which may be
    negative. Biased (V-statistic): the same with all pairs, never negative and 0 for identical sets.

    Args:
        x: Features, [n, d]; n at least 2 when unbiased.
        y: Features, [m, d]; m at least 2 when unbiased.
        sigma: Bandwidth; ``None`` takes :func:`median_distance`. At 0 the kernel is 1 for equal rows and else 0.
        unbiased: Leave out the pairs of a row with itself.

    Returns:
        The squared MMD and the bandwidth.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    width = median_distance(x, y) if sigma is None else torch.as_tensor(sigma, dtype=x.dtype, device=x.device)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.where(distance == 0, 1.0, (-(distance / width).square() / 2).exp())

    def within(a: Tensor) -> Tensor:
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.trace()) / (n * (n - 1)) if unbiased else k.mean()

    return within(x) + within(y) - 2 * kernel(x, y).mean(), width


def kl_estimates(logprobs: Tensor, other_logprobs: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Estimates of KL(p‖q) from tokens drawn from p, averaged over the active ones.

    ``k1 = log p - log q``, ``k2 = k1^2 / 2``, ``k3 = q/p - log(q/p) - 1`` (J. Schulman, "Approximating KL divergence",
    2020). k1 and k3 are unbiased; k3 varies less and is never negative.

    Args:
        logprobs: log p of the tokens, [...].
        other_logprobs: log q of the same tokens, [...].
        mask: True at active tokens.

    Returns:
        Scalars ``k1``, ``k2`` and ``k3``; 0 where nothing is active.
    """
    n = logprobs.numel() if mask is None else mask.sum().clamp(min=1)
    return {
        kind: fill_masked(kl_penalty(logprobs, other_logprobs, kind, mask=mask), mask).sum() / n  # type: ignore[arg-type]
        for kind in ("k1", "k2", "k3")
    }


def total_variation(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """``1/2 sum |p - q|``, in [0, 1].

    Args:
        logprobs: log p, normalised, [..., V].
        other_logprobs: log q, normalised, [..., V].
    """
    return (at_least_float32(logprobs).exp() - at_least_float32(other_logprobs).exp()).abs().sum(-1) / 2
