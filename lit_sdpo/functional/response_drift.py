"""How far a policy's responses have moved from its base's: divergences token by token, likeness of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.divergence import log_softmax
from lit_sdpo.functional.precision import at_least_float32
from lit_sdpo.functional.sample_distances import median_distance, squared_mmd
from lit_sdpo.functional.statistics import bootstrap_means

_BLOCK_ELEMENTS = 2**16
"""Entries of a block of rows on a CPU: a handful of such blocks fit the cache."""


class TokenDrift(NamedTuple):
    """What separates the policy from its base at each token, in nats, [M] each.

    Attributes:
        forward_kl: ``KL(base‖policy)``.
        reverse_kl: ``KL(policy‖base)``.
        js: Jensen-Shannon divergence, at most ``log 2``.
        entropy: Of the policy.
    """

    forward_kl: Tensor
    reverse_kl: Tensor
    js: Tensor
    entropy: Tensor


def token_drift(logits: Tensor, base_logits: Tensor) -> TokenDrift:
    """Compare two next-token distributions over the whole vocabulary.

    Summed over the tokens of a response that was drawn from p, ``KL(p‖q)`` of the tokens is an unbiased estimate of
    the KL between the laws of whole responses (the chain rule); it varies less than the log-ratio of the response.
    Everything comes from one softmax of either side.

    Args:
        logits: The policy's, [M, V].
        base_logits: The base's, [M, V].

    Example:
        >>> same = token_drift(torch.zeros(1, 4), torch.zeros(1, 4))
        >>> abs(same.reverse_kl.item()), round(same.entropy.item(), 4)
        (0.0, 1.3863)
    """
    size = max(1, len(logits))
    if logits.device.type == "cpu":
        size = max(1, _BLOCK_ELEMENTS // logits.shape[-1])
    blocks = zip(logits.split(size), base_logits.split(size), strict=True)
    return TokenDrift(*torch.cat([_compared(mine, theirs) for mine, theirs in blocks], 1))


def _compared(logits: Tensor, base_logits: Tensor) -> Tensor:
    """The four numbers of some tokens, [4, m]."""
    log_p, log_q = log_softmax(logits), log_softmax(base_logits)
    p, q = log_p.exp(), log_q.exp()
    nowhere_p, nowhere_q = p == 0, q == 0

    def expected(mass: Tensor, nowhere: Tensor, values: Tensor) -> Tensor:
        return (mass * values).masked_fill_(nowhere, 0.0).sum(-1)  # 0 log 0 = 0

    d = log_q - log_p
    # log(M/P) = common + max(d, 0) and log(M/Q) = common - min(d, 0) for M = (P + Q) / 2, exact at d = 0.
    common = d.abs().neg_().expm1_().mul_(0.5).log1p_()
    js = expected(p, nowhere_p, d.clamp(min=0).add_(common)) + expected(q, nowhere_q, common.sub_(d.clamp(max=0)))
    forward, reverse = expected(q, nowhere_q, d), -expected(p, nowhere_p, d)
    return torch.stack([forward, reverse, js / -2, -expected(p, nowhere_p, log_p)])


def sum_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sum of the entries of each row, in float64.

    Args:
        values: [M, ...].
        rows: Row of each entry, int64 [M].
        count: Number of rows, N.

    Returns:
        [N, ...].

    Example:
        >>> sum_by_row(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 2]), 3)
        tensor([3., 0., 3.], dtype=torch.float64)
    """
    return values.new_zeros(count, *values.shape[1:], dtype=torch.float64).index_add_(0, rows, values.double())


def pairwise_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine similarity of all pairs of one vector of ``a`` and one of ``b``, for each prompt.

    Args:
        a: G vectors for each of P prompts, [P, G, D].
        b: H vectors for each, [P, H, D].

    Returns:
        [P]; a vector of zeros is like none.

    Example:
        >>> pairwise_cosine(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]))
        tensor([0.5000])
    """
    unit_a, unit_b = (torch.nn.functional.normalize(at_least_float32(x), dim=-1) for x in (a, b))
    return (unit_a.mean(1) * unit_b.mean(1)).sum(-1)


def mmd_matrix(sets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Unbiased squared MMD between every two sets of features, with one bandwidth for all.

    The bandwidth is the median distance of all rows of all sets, so that the entries can be compared. An entry of sets
    that do not differ is near 0 and may be below it; the diagonal is 0.

    Args:
        sets: K sets of features, [n_k, D] with n_k at least 2.

    Returns:
        [K, K], and the bandwidth.
    """
    pooled = torch.cat(list(sets))
    sigma = median_distance(pooled[::2], pooled[1::2])
    matrix = pooled.new_zeros(len(sets), len(sets), dtype=sigma.dtype)
    for i, x in enumerate(sets):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = squared_mmd(x, sets[j], sigma=sigma)[0]
    return matrix, sigma


def ratio_of_sums(
    numerators: Tensor, denominators: Tensor, *, resamples: int = 2000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``sum(numerators) / sum(denominators)`` and its bootstrap draws over prompts.

    Args:
        numerators: Of each prompt, [P].
        denominators: Of each prompt, [P].
        resamples: Number of draws, S.
        seed: Of the draws.

    Returns:
        A scalar and [S]; nan where the denominators add up to 0.
    """
    both = torch.stack([numerators, denominators], -1).double().cpu()
    draws = bootstrap_means(both, resamples, seed)
    return both[:, 0].sum() / both[:, 1].sum(), draws[:, 0] / draws[:, 1]


def mean_of_ratios(several: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Means over tasks of values and of draws, of the numbers that all of them have.

    Args:
        several: Of each task its numbers by name, as :func:`ratio_of_sums` gives them.

    Example:
        >>> one, other = torch.tensor(1.0), torch.tensor(3.0)
        >>> mean_of_ratios([{"js": (one, one[None])}, {"js": (other, other[None]), "length": (one, one[None])}])
        {'js': (tensor(2.), tensor([2.]))}
    """
    names = [name for name in several[0] if all(name in one for one in several)]
    return {
        name: (torch.stack(values).mean(0), torch.stack(draws).mean(0))
        for name in names
        for values, draws in [zip(*(one[name] for one in several), strict=True)]
    }


def smoothed_rate(successes: Tensor, trials: Tensor) -> Tensor:
    """``(successes + 1/2) / (trials + 1)``: a rate that is never 0 or 1 (Krichevsky and Trofimov 1981).

    Args:
        successes: [...].
        trials: [...].
    """
    return (successes.double() + 0.5) / (trials.double() + 1)
