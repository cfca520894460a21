"""Resampled prompts, a paired test, pass@k, and what an evaluation can detect."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32


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
