"""Weights between two points of training: WiSE-FT's one share for all, LiNeS's share that rises with depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32


def lines_strengths(alpha: float, beta: float, layers: int, depths: Sequence[int | None] | None = None) -> list[float]:
    """How much of its change each tensor keeps: ``alpha + beta (l - 1) / (L - 1)`` in block l of L (LiNeS).

    Early blocks hold what is general and keep less (arXiv 2410.17146). What stands outside the blocks (embeddings, the
    last norm, the head) keeps ``alpha``, and so does the block of a model with one, where the published code divides
    by 0.

    Args:
        alpha: Share of the first block.
        beta: What the last block has on top.
        layers: Number of blocks L.
        depths: Block of each tensor, 1 to L, ``None`` outside the blocks; by default one tensor for each block.

    Returns:
        One strength for each tensor.

    Raises:
        ValueError: ``layers`` is below 1, or a tensor is in a block that does not exist.

    Example:
        >>> lines_strengths(0.25, 0.5, layers=3, depths=[None, 1, 2, 3])
        [0.25, 0.25, 0.5, 0.75]
    """
    if layers < 1:
        raise ValueError(f"layers must be at least 1, got {layers}")
    depths = range(1, layers + 1) if depths is None else depths
    if outside := [depth for depth in depths if depth is not None and not 1 <= depth <= layers]:
        raise ValueError(f"blocks are numbered 1 to {layers}, got {outside[0]}")
    return [alpha if depth is None else alpha + beta * (depth - 1) / max(layers - 1, 1) for depth in depths]


@torch.no_grad()
def merge_weights(
    previous: Sequence[Tensor], current: Sequence[Tensor], strengths: float | Sequence[float]
) -> list[Tensor]:
    """New weights ``previous + strength (current - previous)``, tensor by tensor.

    One strength for all is WiSE-FT (arXiv 2109.01903), :func:`lines_strengths` gives LiNeS's. 0 returns the previous
    tensor and 1 the current one exactly. Sums are in float32 or better; the result has the current tensor's dtype.

    Args:
        previous: Weights before a stage, of any shapes.
        current: Weights after it, of the same shapes in the same order.
        strengths: Share of the change that is kept: one number, or one for each tensor. Above 1 it is prolonged.

    Raises:
        ValueError: Lengths or shapes differ, or a strength is not finite.

    Example:
        >>> merge_weights([torch.tensor([1.0])], [torch.tensor([3.0])], 0.25)
        [tensor([1.5000])]
    """
    if isinstance(strengths, int | float):
        strengths = [float(strengths)] * len(current)
    if not len(previous) == len(current) == len(strengths):
        raise ValueError(
            f"previous, current and strengths must be as many, got {len(previous)}, {len(current)}, {len(strengths)}"
        )
    merged = []
    for before, after, strength in zip(previous, current, strengths, strict=True):
        if before.shape != after.shape:
            raise ValueError(f"previous and current have other shapes: {list(before.shape)}, {list(after.shape)}")
        if not math.isfinite(strength):
            raise ValueError(f"a strength must be finite, got {strength}")
        if strength in (0, 1):
            merged.append((after if strength else before).to(after, copy=True))
            continue
        exact = at_least_float32(after)
        merged.append(torch.lerp(before.to(exact), exact, strength).to(after.dtype))
    return merged
