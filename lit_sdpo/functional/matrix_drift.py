"""Everything that is measured on one matrix of weights, before and after."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32
from lit_sdpo.functional.subspaces import (
    changed,
    compare_directions,
    intersection_over_union,
    leading_directions,
    leading_mask,
    stable_rank,
)
from lit_sdpo.functional.weight_change import weight_change

#: Power iterations of truncated decompositions. For the spectral norm of a change, which is often noise, more.
POWER_ITERATIONS = 2
NORM_ITERATIONS = 4


class MatrixDrift(NamedTuple):
    """How far one matrix moved (arXiv 2607.01763, appendix A; arXiv 2511.08567; arXiv 2606.07082).

    Attributes:
        relative_norm: ``‖W1 - W0‖_F / ‖W0‖_F``.
        bf16_sparsity: Share of entries that a bfloat16 copy would not show as changed.
        spectrum_shift: ``‖sigma(W1) - sigma(W0)‖ / ‖sigma(W0)‖`` over the singular values that are known: all of them
            (the paper's NSS) or, truncated, the leading ones.
        left_angle: Largest principal angle between the leading left subspaces, degrees (the paper's max PA).
        right_angle: The same for the right subspaces.
        left_overlap: ``mean cos^2`` of all left angles; unlike the largest angle it does not depend on the last
            direction alone.
        right_overlap: The same for the right.
        gap: ``(sigma_r - sigma_(r+1)) / sigma_1`` before; near 0 the largest angles mean nothing.
        mask_overlap: IoU of the principal masks before and after.
        mask_update: IoU of the principal mask before and the entries whose bfloat16 copies changed.
        mask_update_absolute: The same with the entries that changed by at least ``threshold``; it is ``share`` once
            all of them did.
        stable_rank: Stable rank of the change; 0 where nothing changed.
    """

    relative_norm: float
    bf16_sparsity: float
    spectrum_shift: float
    left_angle: float
    right_angle: float
    left_overlap: float
    right_overlap: float
    gap: float
    mask_overlap: float
    mask_update: float
    mask_update_absolute: float
    stable_rank: float


def matrix_drift(
    before: Tensor,
    after: Tensor,
    *,
    rank: float = 0.1,
    share: float = 0.1,
    threshold: float = 1e-5,
    full_up_to: int = 512,
) -> MatrixDrift:
    """Measure one matrix.

    Up to a size the decomposition is the full one, in float64; beyond it is truncated, in float32 (see
    :func:`~lit_sdpo.functional.subspaces.leading_directions`).

    Args:
        before: [n, m].
        after: [n, m], on any device.
        rank: Dimension r of the leading subspaces: below 1 a share of ``min(n, m)``, else a number.
        share: Share of entries in a principal mask.
        threshold: Smallest change of an entry that counts in ``mask_update_absolute``.
        full_up_to: Largest ``min(n, m)`` that is decomposed fully.

    Example:
        >>> import torch
        >>> drift = matrix_drift(torch.eye(4), 2 * torch.eye(4), rank=1)
        >>> drift.relative_norm, drift.spectrum_shift, drift.left_angle, drift.stable_rank
        (1.0, 1.0, 0.0, 4.0)
    """
    change = weight_change([before], [after])
    full = min(before.shape) <= full_up_to
    a, b = (at_least_float32(x.detach().to(after.device)) for x in (before, after))
    if full:
        a, b = a.double(), b.double()
    r = max(1, round(rank * min(before.shape)) if rank < 1 else int(rank))
    first, second = (leading_directions(x, r, power_iterations=None if full else POWER_ITERATIONS) for x in (a, b))
    turned = compare_directions(first, second)
    mask = leading_mask(first, share)
    overlap = intersection_over_union(mask, leading_mask(second, share))
    difference = b - a
    updates = (intersection_over_union(mask, changed(a, b, least)) for least in (None, threshold))
    update, update_absolute = map(float, updates)
    return MatrixDrift(
        relative_norm=float(change.relative_l2),
        bf16_sparsity=float(change.bf16_sparsity),
        spectrum_shift=float(turned.spectrum_shift),
        left_angle=math.degrees(turned.left_angles.max()),
        right_angle=math.degrees(turned.right_angles.max()),
        left_overlap=float(turned.left_overlap),
        right_overlap=float(turned.right_overlap),
        gap=float(turned.gap / first.values[0]),
        mask_overlap=float(overlap),
        mask_update=update,
        mask_update_absolute=update_absolute,
        stable_rank=float(stable_rank(difference, power_iterations=None if full else NORM_ITERATIONS)),
    )
