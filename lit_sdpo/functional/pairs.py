"""Paired differences over a handful of seeds and many prompts: draws of their mean, p-values, Holm's correction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

#: Draws behind every interval and p-value.
RESAMPLES = 4000
#: Differences up to which all sign flips are counted.
ALL_FLIPS = 14


def combine(differences: Tensor, prompts: Tensor | None, resamples: int = RESAMPLES) -> Tensor:
    """Draws of a mean over seeds that vary with seeds and prompts.

    ``mean + t s / sqrt(n) + (prompts - mean of prompts)`` with t from Student's distribution of ``n - 1`` degrees of
    freedom and s the standard deviation of the n differences. One seed has no part of its own.

    Args:
        differences: One per seed, [n].
        prompts: Draws over prompts of the mean over seeds, [S]; ``None`` without prompts.
        resamples: S.

    Returns:
        [S]; all nan with one seed and no prompts, of which nothing is known.
    """
    n = len(differences)
    total = differences.mean().expand(resamples).clone()
    if n == 1 and prompts is None:
        return total.fill_(math.nan)
    if prompts is not None:
        total += prompts - prompts.mean()
    if n > 1:
        total += student_draws(n - 1, resamples) * differences.std() / math.sqrt(n)
    return total


@lru_cache(maxsize=16)
def student_draws(degrees: int, resamples: int) -> Tensor:
    """Draws from Student's t distribution, evenly spread: the quantiles of a large sample in random order, [S].

    Symmetric around 0; the same for the same arguments.

    Args:
        degrees: Degrees of freedom, at least 1.
        resamples: S.
    """
    generator = torch.Generator().manual_seed(degrees)
    size = 100 * resamples
    square = torch.zeros(size, dtype=torch.float64)
    for _ in range(degrees):
        square += torch.randn(size, generator=generator, dtype=torch.float64) ** 2
    t = torch.randn(size, generator=generator, dtype=torch.float64) / (square / degrees).sqrt()
    even = t.sort().values.view(resamples, -1).median(1).values
    return ((even - even.flip(0)) / 2)[torch.randperm(resamples, generator=generator)]


def p_value(draws: Tensor) -> float:
    """Twice the share of the draws on the smaller side of 0, never below ``2 / (S + 1)``; nan of nan.

    Args:
        draws: Of an effect around its estimate, [S].
    """
    if bool(draws.isnan().any()):
        return math.nan
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (side + 1) / (len(draws) + 1))


def sign_flip(differences: Sequence[float], resamples: int = 20_000) -> float:
    """Two-sided p-value of a mean of paired differences: the share of sign flips that give as large a mean.

    All ``2^n`` flips of up to :data:`ALL_FLIPS` differences, else random ones and the observed one.

    Args:
        differences: One per pair.
        resamples: Random flips.

    Example:
        >>> sign_flip([1.0, 2.0, 3.0])
        0.25
    """
    values = torch.tensor(differences, dtype=torch.float64)
    if not len(values):
        return math.nan
    exact = len(values) <= ALL_FLIPS
    if exact:
        signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=len(values))), dtype=torch.float64)
    else:
        generator = torch.Generator().manual_seed(len(values))
        signs = 2.0 * torch.randint(2, (resamples, len(values)), generator=generator).double() - 1
    observed = float(values.sum().abs())
    reached = ((signs @ values).abs() >= observed * (1 - 1e-12)).double()
    return float(reached.mean()) if exact else float((reached.sum() + 1) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979); nan stays nan and is no test.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, least = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        corrected[i] = least
    return corrected
