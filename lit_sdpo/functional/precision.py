"""Losses are computed in float32 or better, and what stands at a masked place is gone before any arithmetic."""

from __future__ import annotations

from torch import Tensor, float64


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or unchanged if it is float64.

    Example:
        >>> import torch
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x if x.dtype == float64 else x.float()


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature`` in float32 or better.

    Example:
        >>> import torch
        >>> tempered(torch.tensor([1.0, 2.0]), 0.5)
        tensor([2., 4.])
    """
    logits = at_least_float32(logits)
    return logits if temperature == 1 else logits / temperature


def fill_masked(x: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """Replace what stands outside ``mask``, so that inf and nan there reach neither a value nor a gradient.

    Args:
        x: [..., V] or [...], any further dimensions on the right.
        mask: True at active places, [...]; ``None`` keeps everything.
        value: What masked places become.

    Example:
        >>> import torch
        >>> fill_masked(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))
        tensor([1., 0.])
    """
    if mask is None:
        return x
    inactive = ~mask.bool()
    return x.masked_fill(inactive.reshape(inactive.shape + (1,) * (x.dim() - inactive.dim())), value)
