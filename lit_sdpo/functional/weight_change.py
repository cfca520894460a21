"""How far weights moved, entry by entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32

#: Entries that are compared at a time: bounds what a very large matrix needs in temporary copies.
BLOCK = 1 << 24


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

    Some millions of entries are upcast at a time. bfloat16 rounding goes to the nearest even value, from float32;
    float32 weights that move less than half a bfloat16 step count as unchanged there.

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
    for old, new in _blocks(before, after):
        a, b = at_least_float32(old), at_least_float32(new).to(old.device)
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


def _blocks(before: Sequence[Tensor], after: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape:
            raise ValueError(f"before and after must have the same shape, got {list(old.shape)} and {list(new.shape)}")
        flat = (x.detach().flatten().split(BLOCK) for x in (old, new))
        yield from zip(*flat, strict=True)


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
