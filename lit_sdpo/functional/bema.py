"""Bias-corrected exponential moving average of weights (BEMA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_sdpo.functional.ema import check_average


@torch.no_grad()
def bema_update_(
    average: Sequence[Tensor],
    current: Sequence[Tensor],
    start: Sequence[Tensor],
    step: int,
    *,
    ema_power: float = 0.5,
    bias_power: float | None = 0.2,
    lag: float = 10.0,
    multiplier: float = 1.0,
    frequency: int = 1,
    min_ema_multiplier: float = 0.0,
) -> list[Tensor] | None:
    """Move an average by one optimizer step, in place, and return it without most of its delay (arXiv 2508.00180).

    With the age ``n = lag + multiplier * step``::

        average = (1 - beta) average + beta current,     beta  = max(n^-ema_power, min_ema_multiplier)
        result  = average + alpha (current - start),     alpha = n^-bias_power

    The average begins as a copy of ``start``. This is the form of TRL's callback; the authors' own has the age
    ``1 + multiplier * (step + lag)``.

    Args:
        average: The moving average, in float32 or better.
        current: The policy's weights now, any dtype, in the same order.
        start: The weights that training began with.
        step: Optimizer steps so far, this one included: from 1.
        ema_power: How fast the share of new weights falls.
        bias_power: How fast the correction falls; 0 keeps all of it, ``None`` has none: a plain average.
        lag: Age before the first step.
        multiplier: Age that a step adds.
        frequency: Only steps that are multiples of it change anything.
        min_ema_multiplier: The share of new weights never falls below it.

    Returns:
        The corrected weights, in the average's dtype, or ``None`` where the step changes nothing: the last ones hold,
        and before the first update ``start``.

    Raises:
        ValueError: A number is out of its range, an average is in less than float32, or the lengths differ.

    Example:
        >>> average, start, now = torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([1.0])
        >>> bema_update_([average], [now], [start], step=1, lag=3.0), average
        ([tensor([1.2579])], tensor([0.5000]))
    """
    if step < 1 or frequency < 1:
        raise ValueError(f"step and frequency must be at least 1, got {step} and {frequency}")
    if ema_power < 0 or (bias_power or 0.0) < 0 or not 0 <= min_ema_multiplier <= 1:
        raise ValueError(
            "powers must be at least 0 and min_ema_multiplier in [0, 1], got "
            f"{ema_power}, {bias_power}, {min_ema_multiplier}"
        )
    age = lag + multiplier * step
    if age <= 0:
        raise ValueError(f"lag + multiplier * step must be above 0, got {lag}, {multiplier}, {step}")
    check_average(average)
    if step % frequency:
        return None
    beta = max(age**-ema_power, min_ema_multiplier)
    alpha = 0.0 if bias_power is None else age**-bias_power
    corrected = []
    for slow, fast, first in zip(average, current, start, strict=True):
        now = fast.to(slow)
        slow.lerp_(now, beta)
        corrected.append(slow.add(now - first.to(slow), alpha=alpha) if alpha else slow.clone())
    return corrected
