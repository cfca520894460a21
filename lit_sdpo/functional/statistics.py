"""How sure a number is: intervals over prompts, paired comparisons, and what an evaluation can detect."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32

#: Below this many prompts the percentiles of a bootstrap are too narrow.
FEW = 30


class Interval(NamedTuple):
    """Two ends and how they were found.

    Attributes:
        low: Lower end.
        high: Upper end.
        method: ``bootstrap`` over prompts, ``wilson`` score interval, or ``rule of three``.
    """

    low: float
    high: float
    method: Literal["bootstrap", "wilson", "rule of three", "none"]


def bootstrap_means(values: Tensor, resamples: int = 2000, seed: int = 0) -> Tensor:
    """Means of the rows, drawn again with replacement: a prompt stays together with all that belongs to it.

    The draws depend on ``n``, ``resamples`` and ``seed`` alone, so columns of one tensor, or two tensors with the same
    prompts, are resampled together. Takes nothing from a global generator.

    Args:
        values: A row per prompt, [n, ...].
        resamples: How often; S.
        seed: Of the draws.

    Returns:
        [S, ...].

    Example:
        >>> bootstrap_means(torch.ones(3, 2), resamples=4).shape
        torch.Size([4, 2])
    """
    values = at_least_float32(values).cpu()
    n = len(values)
    counts = _draws(n, resamples, seed).to(values.dtype)
    return (counts @ values.reshape(n, -1) / n).view(resamples, *values.shape[1:])


@lru_cache(maxsize=16)
def _draws(n: int, resamples: int, seed: int) -> Tensor:
    """How often each of n prompts is in each resample, int16 [S, n]."""
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    drawn += n * torch.arange(resamples)[:, None]
    return drawn.flatten().bincount(minlength=resamples * n).view(resamples, n).short()


def percentile_interval(draws: Tensor, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """Percentiles of resampled values, one interval per column; nan where a draw is nan.

    Args:
        draws: [S, ...].
        confidence: Share of the draws between the ends.

    Returns:
        Lower and upper ends, [...] each.
    """
    tail = (1 - confidence) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype), dim=0)
    return low, high


def mean_interval(values: Tensor, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Interval of the mean score of some prompts.

    Percentile bootstrap over prompts. For scores in [0, 1] of fewer than 30 prompts, or all 0 or all 1, Wilson's score
    interval with a prompt as the unit, which is wider than needed where a prompt has several samples.

    Args:
        values: Mean score of each prompt, [n].
        confidence: How often such an interval holds the true mean.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Example:
        >>> mean_interval(torch.ones(20)).method, round(mean_interval(torch.ones(20)).low, 3)
        ('wilson', 0.839)
    """
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, "none")
    same, within = bool((values == values[0]).all()), bool(((values >= 0) & (values <= 1)).all())
    if within and (n < FEW or same):
        return wilson_interval(float(values.double().mean()), n, confidence)
    low, high = percentile_interval(bootstrap_means(values, resamples, seed), confidence)
    return Interval(float(low), float(high), "bootstrap")


def wilson_interval(share: float, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a share of n (Wilson 1927).

    Args:
        share: In [0, 1].
        n: At least 1.
        confidence: How often such an interval holds the true share.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale), "wilson")


def difference_interval(
    before: Tensor, after: Tensor, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval of ``mean(after - before)`` over the same prompts: paired, by bootstrap over prompts.

    Where all prompts changed alike no draw differs, and the ends are the difference and ``1 - (1 - confidence)^(1/n)``
    (about ``3 / n``): the largest share of other prompts that n draws may well have missed.

    Args:
        before: Mean score of each prompt, [n].
        after: The same prompts in the same order, [n].
        confidence: How often such an interval holds the true difference.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    if before.shape != after.shape:
        raise ValueError(f"before and after must be the same prompts, got {list(before.shape)} and {list(after.shape)}")
    difference = at_least_float32(after) - at_least_float32(before)
    n = len(difference)
    if n == 0:
        return Interval(math.nan, math.nan, "none")
    if bool((difference == difference[0]).all()):
        centre, half = float(difference[0]), 1 - (1 - confidence) ** (1 / n)
        return Interval(centre - half, centre + half, "rule of three")
    low, high = percentile_interval(bootstrap_means(difference, resamples, seed), confidence)
    return Interval(float(low), float(high), "bootstrap")


def mcnemar(lost: int, won: int) -> float:
    """Two-sided p-value that prompts move both ways equally often (exact McNemar test).

    Args:
        lost: Prompts that were right before and wrong after, one sample each.
        won: The reverse.

    Example:
        >>> mcnemar(8, 1)
        0.0390625
    """
    n = lost + won
    tail = sum(math.comb(n, i) for i in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**n)


def pass_at_k(correct: Tensor, samples: Tensor, k: int) -> Tensor:
    """Chance that at least one of k samples is right: ``1 - C(n - c, k) / C(n, k)`` for each prompt (arXiv 2107.03374).

    Unbiased for any n at least k. The mean score of k samples is avg@k, another number.

    Args:
        correct: c, right samples of each prompt, [N].
        samples: n, samples of each prompt, [N].
        k: At least 1.

    Returns:
        [N].

    Raises:
        ValueError: A prompt has fewer than k samples.

    Example:
        >>> pass_at_k(torch.tensor([0, 1, 4]), torch.tensor([4, 4, 4]), k=2)
        tensor([0.0000, 0.5000, 1.0000])
    """
    if k < 1 or bool((samples < k).any()):
        raise ValueError(f"pass@{k} needs k of at least 1 and at least k samples of every prompt")
    wrong, n = (x.double()[:, None] for x in (samples - correct, samples))
    place = torch.arange(k, dtype=torch.float64, device=correct.device)
    missed = ((wrong - place).clamp(min=0) / (n - place)).prod(1)
    return (1 - missed).float()


def smallest_detectable_change(
    prompts: int, samples: int, variance: float, *, confidence: float = 0.95, power: float = 0.8
) -> float:
    """Smallest change of a mean score that a paired before/after comparison will find.

    ``(z_confidence + z_power) sqrt(2 variance / (samples prompts))``: a change of this size is found in the share
    ``power`` of evaluations. It supposes that prompts change alike; where some rise and others fall, more is needed.

    Args:
        prompts: n.
        samples: Samples per prompt in each evaluation.
        variance: Of one sample's score around its prompt's mean, such as ``p (1 - p)`` for a chance p.
        confidence: Two-sided level of the comparison.
        power: At 0.5 the change is as large as half of its interval.

    Example:
        >>> round(smallest_detectable_change(200, 1, 0.05, power=0.5), 3)  # one prompt in ten flips
        0.044
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return z * math.sqrt(2 * variance / (samples * prompts))


def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, to about 1e-4 above the median.

    Exact for 1 and 2 degrees of freedom, else the expansion in ``1 / degrees`` (Abramowitz and Stegun 26.7.5).

    Args:
        probability: In (0, 1).
        degrees: Degrees of freedom, at least 1.

    Example:
        >>> round(student_t_quantile(0.975, 9), 3)
        2.262
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        centred = 2 * probability - 1
        return centred * math.sqrt(2 / (1 - centred**2))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (i + 1) for i, term in enumerate(terms))


def mean_with_interval(values: Tensor, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of some values and its interval ``mean ± t s / sqrt(n)``; one value has no interval (nan).

    Args:
        values: Such as one per layer, [n].
        confidence: How often such an interval holds the true mean.

    Returns:
        Mean, lower and upper end.

    Example:
        >>> mean_with_interval(torch.tensor([1.0]))
        (1.0, nan, nan)
    """
    values = values.double()
    n, mean = len(values), float(values.mean())
    if n < 2:
        return mean, math.nan, math.nan
    half = student_t_quantile((1 + confidence) / 2, n - 1) * float(values.std()) / math.sqrt(n)
    return mean, mean - half, mean + half
