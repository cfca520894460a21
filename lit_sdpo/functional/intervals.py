"""Intervals that hold the truth about as often as they say, also of eight prompts or three seeds.

How often each does is simulated by ``python -m benchmarks.coverage``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import torch
from torch import Tensor

#: What a prompt counts at least in the lognormal interval, as a share of the mean.
SMALLEST_SHARE = 0.1


class Interval(NamedTuple):
    """Two ends and how they were found.

    Attributes:
        low: Lower end.
        high: Upper end.
        method: ``wilson``, ``newcombe``, Student's ``t``, ``lognormal``, ``rule of three`` where all prompts changed
            alike, ``no spread`` where all values are one and nothing is known of others, ``none`` of nothing. The ends
            of the last two are nan.
    """

    low: float
    high: float
    method: Literal["wilson", "newcombe", "t", "lognormal", "rule of three", "no spread", "none"]


def mean_interval(values: Tensor, *, confidence: float = 0.95) -> Interval:
    """Interval of the mean of some prompts' values.

    Scores in [0, 1] have Wilson's (:func:`stratified_interval`), other values Student's.

    Args:
        values: Mean score of each prompt, [n].
        confidence: How often such an interval holds the true mean.

    Example:
        >>> mean_interval(torch.ones(20)).method, round(mean_interval(torch.ones(20)).low, 3)
        ('wilson', 0.82)
    """
    values = values.double()
    if len(values) == 0:
        return Interval(math.nan, math.nan, "none")
    if are_scores(values):
        return stratified_interval([values], [1.0], confidence=confidence)
    if bool((values == values[0]).all()):
        return Interval(math.nan, math.nan, "no spread")
    return Interval(*mean_with_interval(values, confidence)[1:], "t")


def stratified_interval(strata: Sequence[Tensor], weights: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Interval of a weighted mean over tasks of the means of their prompts' scores, which are in [0, 1].

    Wilson's (:func:`wilson_interval`) at the *effective* number of prompts, ``mean (1 - mean) / variance of the mean``:
    as many prompts of one task, with one sample each, would be as certain. Of one task that is n for scores of 0 and
    1, and more where prompts have several samples; where all scores are alike it is the number that the weights leave.

    Args:
        strata: Scores of the prompts of each task, [n_k].
        weights: Of the tasks; their sum is 1.
        confidence: How often such an interval holds the true mean.
    """
    parts = list(zip(weights, (x.double() for x in strata), strict=True))
    mean = min(1.0, max(0.0, math.fsum(w * float(x.mean()) for w, x in parts)))
    variance = math.fsum(w * w * float(x.var()) / len(x) for w, x in parts if len(x) > 1)
    alike = 1 / math.fsum(w * w / len(x) for w, x in parts)
    effective = mean * (1 - mean) / variance if variance > 0 and 0 < mean < 1 else alike
    degrees = sum(len(x) - 1 for x in strata)
    return wilson_interval(mean, effective, confidence, degrees=max(1, degrees))


def are_scores(values: Tensor) -> bool:
    """Whether all values are in [0, 1]."""
    return bool(((values >= 0) & (values <= 1)).all())


def wilson_interval(share: float, n: float, confidence: float = 0.95, *, degrees: int | None = None) -> Interval:
    """Score interval of a share of n (Wilson 1927).

    Args:
        share: In [0, 1].
        n: Above 0.
        confidence: How often such an interval holds the true share.
        degrees: Degrees of freedom of Student's t, where n rests on a variance that was estimated; default: normal.
    """
    level = (1 + confidence) / 2
    z = NormalDist().inv_cdf(level) if degrees is None else student_t_quantile(level, degrees)
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return Interval(max(0.0, min(low, share)), min(1.0, max(high, share)), "wilson")  # rounding, at 0 and 1


def difference_interval(before: Tensor, after: Tensor, *, confidence: float = 0.95) -> Interval:
    """Interval of ``mean(after - before)`` over the same prompts, paired.

    Student's interval of the differences. Of scores in [0, 1] the hull of that and of Newcombe's (1998): gains and
    losses have Wilson's interval each, as shares of the largest change, which are put together with the correlation
    that two parts of one change have. Where only a few prompts changed, all one way, Student's alone misses the truth
    in one case of six. Where all scores changed alike the ends are the difference and ``1 - (1 - confidence)^(1/n)``
    (about ``3 / n``): the largest share of other prompts that n draws may well have missed.

    Args:
        before: Mean score of each prompt, [n].
        after: The same prompts in the same order, [n].
        confidence: How often such an interval holds the true difference.
    """
    if before.shape != after.shape:
        raise ValueError(f"before and after must be the same prompts, got {list(before.shape)} and {list(after.shape)}")
    before, after = before.double(), after.double()
    difference = after - before
    n = len(difference)
    if n == 0:
        return Interval(math.nan, math.nan, "none")
    scores = are_scores(before) and are_scores(after)
    if float(difference.max() - difference.min()) < 1e-6:  # a step of a score is larger
        if not scores:
            return Interval(math.nan, math.nan, "no spread")
        centre, half = float(difference[0]), 1 - (1 - confidence) ** (1 / n)
        return Interval(max(-1.0, centre - half), min(1.0, centre + half), "rule of three")
    _, low, high = mean_with_interval(difference, confidence)
    if not scores:
        return Interval(low, high, "t")
    parts = _newcombe(difference, confidence)
    return Interval(max(-1.0, min(low, parts[0])), min(1.0, max(high, parts[1])), "newcombe")


def _newcombe(difference: Tensor, confidence: float) -> tuple[float, float]:
    """Ends of a mean difference from Wilson's intervals of gains and losses."""
    largest = float(difference.abs().max())
    gain, loss = (side.clamp(min=0) / largest for side in (difference, -difference))
    (g, g_low, g_high), (x, x_low, x_high) = (
        (float(part.mean()), *mean_interval(part, confidence=confidence)[:2]) for part in (gain, loss)
    )
    spread = float(gain.std(correction=0) * loss.std(correction=0))
    correlation = max(-1.0, -g * x / spread) if spread > 0 else 0.0  # no prompt has both

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))

    low, high = g - x - reach(g - g_low, x_high - x), g - x + reach(g_high - g, x - x_low)
    return largest * low, largest * high


def ratio_interval(numerators: Tensor, denominators: Tensor | None = None, *, confidence: float = 0.95) -> Interval:
    """Interval of ``sum(numerators) / sum(denominators)`` over prompts, for values that are never negative.

    The hull of two intervals, both symmetric on the log scale. Student's, by the delta method, which holds whatever the
    distribution if prompts are many. Cox's for lognormal values (Zhou and Gao 1997), ``log mean`` being
    ``m + s^2 / 2 ± t sqrt(s^2 / n + s^4 / (2 (n - 1)))`` with m and s of ``log(numerator / denominator)``: divergences
    are spread like that, and 8 prompts seldom hold one of the large values on which their mean rests. A tenth of the
    mean stands for what is smaller, since values near 0 spread the logarithms without end and the mean not at all.

    Args:
        numerators: Of each prompt, [n].
        denominators: Of each prompt, [n]; default: 1, the interval of a mean.
        confidence: How often such an interval holds the true ratio.

    Returns:
        ``lognormal``; ``no spread`` where the ratio is the same for all prompts.
    """
    a = numerators.double().cpu()
    b = torch.ones_like(a) if denominators is None else denominators.double().cpu()
    a, b = a[b > 0], b[b > 0]
    n = len(a)
    if n < 2 or not bool(a.isfinite().all()):
        return Interval(math.nan, math.nan, "none")
    ratio = float(a.sum() / b.sum())
    each = a / b
    if not ratio > 0 or float(each.max() - each.min()) < 1e-12 * ratio:
        return Interval(math.nan, math.nan, "no spread")
    t = student_t_quantile((1 + confidence) / 2, n - 1)
    residual = (a - ratio * b) / b.mean()
    half = t * math.sqrt(float(residual.square().sum()) / ((n - 1) * n)) / ratio
    floored = each.clamp(min=SMALLEST_SHARE * float(each.mean()))
    logs = floored.log()
    variance = float(logs.var())
    weight = float(b.square().mean().sqrt() / b.mean())  # unequal denominators: fewer prompts than there seem to be
    wide = t * math.sqrt(variance / n + variance**2 / (2 * (n - 1))) * weight
    centre = ratio * math.exp(float(logs.mean()) + variance / 2) / float(floored.mean())
    low, high = min(ratio * math.exp(-half), centre * math.exp(-wide)), max(ratio * _exp(half), centre * _exp(wide))
    return Interval(low, high, "lognormal")


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)


def sum_of_intervals(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Ends of the sum of independent numbers from the ends of each (MOVER; Zou and Donner 2008).

    ``sum - sqrt(sum (value - low)^2)`` and ``sum + sqrt(sum (high - value)^2)``; nan where an end is.

    Args:
        values: The numbers.
        intervals: The ends of each.

    Example:
        >>> sum_of_intervals([1.0, 3.0], [(-2.0, 5.0), (-1.0, 6.0)])
        (-1.0, 9.0)
    """
    total = math.fsum(values)
    below, above = (
        math.sqrt(math.fsum((pair[end] - value) ** 2 for value, pair in zip(values, intervals, strict=True)))
        for end in (0, 1)
    )
    return total - below, total + above


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
    """Mean of some values and its interval ``mean ± t s / sqrt(n)``.

    One value has no interval (nan), nor have several that do not differ: their spread is not known to be 0.

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
    if n < 2 or bool((values == values[0]).all()):
        return mean, math.nan, math.nan
    half = student_t_quantile((1 + confidence) / 2, n - 1) * float(values.std()) / math.sqrt(n)
    return mean, mean - half, mean + half
