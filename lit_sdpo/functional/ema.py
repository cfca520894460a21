"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def check_average(average: Iterable[Tensor]) -> None:
    """Refuse averages whose dtype loses small steps.

    Raises:
        ValueError: One is in less than float32.
    """
    for slow in average:
        if slow.is_floating_point() and slow.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"an average in {slow.dtype} loses small steps: keep it in float32")


@torch.no_grad()
def ema_update_(average: Iterable[Tensor], current: Iterable[Tensor], rate: float) -> None:
    """Move each average towards its current tensor, in place: ``average = (1 - rate) average + rate current``.

    The average keeps its own dtype. Keep it in float32: in bfloat16 a step below half a unit in the last place is lost
    altogether.

    Args:
        average: Tensors to update, float32 or float64.
        current: Tensors of the same shapes, any dtype, in the same order.
        rate: Share of ``current``, in [0, 1]. 0 changes nothing, 1 copies exactly.

    Raises:
        ValueError: ``rate`` is outside [0, 1], an average is in less than float32, or the lengths differ.

    Example:
        >>> teacher, student = torch.tensor([0.0]), torch.tensor([1.0])
        >>> ema_update_([teacher], [student], rate=0.05)
        >>> teacher
        tensor([0.0500])
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    for slow, fast in zip(average, current, strict=True):
        check_average([slow])
        if rate == 1:
            slow.copy_(fast)
        elif rate > 0:
            slow.lerp_(fast.to(slow), rate)
