"""Where the leading singular directions of a matrix went."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32

#: Further directions that a truncated decomposition carries along, and leaves out of its result.
OVERSAMPLING = 10


class LeadingDirections(NamedTuple):
    """Leading singular vectors of a matrix, and the singular values that are known.

    Attributes:
        left: Left singular vectors, [n, r].
        values: Singular values, descending, [K]: all of them, or the leading ``r + 1``.
        right: Right singular vectors, [m, r].
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def reconstruction(self) -> Tensor:
        """The rank-r approximation ``U_r diag(sigma_r) V_r.T``, [n, m]."""
        return (self.left * self.values[: self.left.shape[1]]) @ self.right.mT


def leading_directions(matrix: Tensor, rank: int, *, power_iterations: int | None = None) -> LeadingDirections:
    """Singular value decomposition, full, or truncated by a randomised range finder.

    The truncated one (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4) multiplies random directions by the
    matrix and its transpose ``power_iterations`` times. Its error falls as ``(sigma_l / sigma_r)^(2 q + 1)``, l being
    ``rank`` and ten more: small where the spectrum decays, large where it is flat. The random directions depend on the
    shape alone and take nothing from a global generator: equal matrices give equal results, and errors of two similar
    matrices cancel in their comparison.

    Args:
        matrix: [n, m].
        rank: r; at most ``min(n, m)`` directions are taken.
        power_iterations: q of the truncated decomposition; ``None`` decomposes fully.

    Example:
        >>> leading_directions(torch.diag(torch.tensor([3.0, 2.0, 1.0])), rank=1).values
        tensor([3., 2., 1.])
    """
    matrix = at_least_float32(matrix.detach())
    r = min(rank, *matrix.shape)
    if power_iterations is None or r + OVERSAMPLING >= min(matrix.shape):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return LeadingDirections(u[:, :r], s, v[:r].mT)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(tall.shape[1], r + OVERSAMPLING, generator=generator, dtype=matrix.dtype)
    basis = tall @ start.to(matrix.device)
    for _ in range(power_iterations):
        basis = tall @ (torch.linalg.qr(basis)[0].mT @ tall).mT  # transposed twice: the fast kernel for few columns
    basis = torch.linalg.qr(basis)[0]
    u, s, v = torch.linalg.svd(basis.mT @ tall, full_matrices=False)
    left, right = basis @ u[:, :r], v[:r].mT
    return LeadingDirections(left, s[: r + 1], right) if tall is matrix else LeadingDirections(right, s[: r + 1], left)


class SubspaceChange(NamedTuple):
    """Rotation of the leading singular subspaces and shift of the spectrum.

    Attributes:
        left_angles: Principal angles between the leading left subspaces, ascending, radians, [r].
        right_angles: The same for the right subspaces.
        left_overlap: ``mean cos^2`` of the left angles, 1 for equal subspaces.
        right_overlap: The same for the right.
        spectrum_shift: ``‖sigma(after) - sigma(before)‖ / ‖sigma(before)‖`` over the singular values that are known
            (over all of them it is the paper's NSS).
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
    cosines = _singular_values(inner).clamp(max=1.0)  # descending: angles ascend
    sines = _singular_values(b - a @ inner).flip(0).clamp(max=1.0)
    return torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())


def _singular_values(tall: Tensor) -> Tensor:
    """Singular values, descending; of float32 from the Gram matrix in float64, which is faster and loses nothing."""
    if tall.dtype == torch.float64:
        return torch.linalg.svdvals(tall)
    wide = tall.double()
    return torch.linalg.eigvalsh(wide.mT @ wide).flip(0).clamp(min=0).sqrt().to(tall.dtype)


def compare_directions(before: LeadingDirections, after: LeadingDirections) -> SubspaceChange:
    """Compare two matrices by their leading directions (arXiv 2607.01763, appendix A; arXiv 2511.08567).

    Args:
        before: Of a matrix [n, m].
        after: Of a matrix of the same shape, with the same rank and number of values.
    """
    left, right = principal_angles(before.left, after.left), principal_angles(before.right, after.right)
    s0, s1, r = before.values, after.values, before.left.shape[1]
    return SubspaceChange(
        left,
        right,
        left.cos().square().mean(),
        right.cos().square().mean(),
        (s1 - s0).norm() / s0.norm(),
        s0[r - 1] - (s0[r] if r < len(s0) else 0.0),
    )


def subspace_change(before: Tensor, after: Tensor, rank: int, *, power_iterations: int | None = None) -> SubspaceChange:
    """Compare the leading singular subspaces of two matrices.

    Computed in the dtype of the matrices, in float32 at least, where angles are known to about 1e-6 over the relative
    gap; give float64 for smaller ones.

    Args:
        before: [n, m].
        after: [n, m].
        rank: Dimension r of the subspaces; at most ``min(n, m)`` are taken.
        power_iterations: As in :func:`leading_directions`.
    """
    first, second = (leading_directions(x, rank, power_iterations=power_iterations) for x in (before, after))
    return compare_directions(first, second)


def stable_rank(matrix: Tensor, *, power_iterations: int | None = None) -> Tensor:
    """``‖W‖_F^2 / ‖W‖_2^2``: the number of directions that carry the norm; 0 for a zero matrix.

    Args:
        matrix: [n, m], for example a change of weights.
        power_iterations: As in :func:`leading_directions`. The truncated spectral norm is a lower bound, so the rank is
            an upper one: by about 3 % at 4 iterations on a matrix of independent entries, the worst case.
    """
    matrix = at_least_float32(matrix.detach())
    largest = matrix.abs().max().clamp(min=torch.finfo(matrix.dtype).tiny)
    scaled = matrix / largest  # squares of very small changes would vanish
    top = leading_directions(scaled, 1, power_iterations=power_iterations).values[0]
    return torch.where(top > 0, scaled.square().sum() / top.square(), 0.0)


def leading_mask(directions: LeadingDirections, share: float = 0.1) -> Tensor:
    """:func:`principal_mask` of a matrix whose leading directions are known, bool [n, m].

    Args:
        directions: Of a matrix [n, m].
        share: Share of entries in the mask.
    """
    size = directions.reconstruction().abs_().flatten()
    smallest = size.kthvalue(len(size) - max(1, round(share * len(size))) + 1).values
    return (size >= smallest).view(directions.left.shape[0], directions.right.shape[0])


def principal_mask(matrix: Tensor, rank: int, share: float = 0.1) -> Tensor:
    """Entries that are large in the rank-r reconstruction ``W_r``: ``|W_r[i, j]|`` among the largest ``share``.

    Entries that tie with the smallest one are in the mask too.

    Args:
        matrix: [n, m].
        rank: r.
        share: Share of entries in the mask. The paper leaves its threshold open; 10 % fits its plots.

    Returns:
        bool [n, m].
    """
    return leading_mask(leading_directions(matrix, rank), share)


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
    before: Tensor, after: Tensor, rank: int, share: float = 0.1, *, threshold: float | None = None
) -> Tensor:
    """Does the change touch principal entries? IoU of the principal mask before and the entries that changed.

    From arXiv 2607.01763, appendix A, which leaves open what counts as changed. Default: what a bfloat16 copy shows,
    about one part in 250 of the entry. A fixed threshold counts everything once the learning rate times the steps
    exceeds it, and the IoU is then ``share`` whatever the method.

    Args:
        before: [n, m].
        after: [n, m].
        rank: Rank of the reconstruction.
        share: Share of entries in the principal mask.
        threshold: Smallest change that counts instead, absolute.
    """
    return intersection_over_union(principal_mask(before, rank, share), changed(before, after, threshold))


def changed(before: Tensor, after: Tensor, threshold: float | None = None) -> Tensor:
    """Entries that changed, bool [n, m]: whose bfloat16 copies differ, or by at least a threshold.

    Args:
        before: [n, m].
        after: [n, m].
        threshold: Smallest change that counts, absolute; ``None`` for bfloat16 copies.
    """
    a, b = at_least_float32(before.detach()), at_least_float32(after.detach())
    if threshold is None:
        return a.float().bfloat16() != b.float().bfloat16()
    return (b - a).abs() >= threshold
