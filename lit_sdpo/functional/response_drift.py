"""How far a policy's responses have moved from its base's: divergences token by token, likeness of responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.divergence import log_softmax
from lit_sdpo.functional.precision import at_least_float32
from lit_sdpo.functional.sample_distances import median_distance, squared_mmd

_BLOCK_ELEMENTS = 2**16
"""Entries of a block of rows on a CPU: a handful of such blocks fit the cache."""


class TokenDrift(NamedTuple):
    """What separates the policy from its base at each token, in nats, [M] each.

    Attributes:
        forward_kl: ``KL(base‖policy)``.
        reverse_kl: ``KL(policy‖base)``.
        js: Jensen-Shannon divergence, at most ``log 2``.
        entropy: Of the policy.
        log_ratio: ``log policy - log base`` of the token that was said; nan where it was not given.
    """

    forward_kl: Tensor
    reverse_kl: Tensor
    js: Tensor
    entropy: Tensor
    log_ratio: Tensor


def token_drift(logits: Tensor, base_logits: Tensor, ids: Tensor | None = None) -> TokenDrift:
    """Compare two next-token distributions over the whole vocabulary.

    Summed over the tokens of a response that was drawn from p, ``KL(p‖q)`` of the tokens is an unbiased estimate of
    the KL between the laws of whole responses (the chain rule); it varies less than the log-ratio of the response.
    Everything comes from one softmax of either side.

    Args:
        logits: The policy's, [M, V].
        base_logits: The base's, [M, V].
        ids: The tokens that were said, int64 [M], for ``log_ratio``.

    Example:
        >>> same = token_drift(torch.zeros(1, 4), torch.zeros(1, 4))
        >>> abs(same.reverse_kl.item()), round(same.entropy.item(), 4)
        (0.0, 1.3863)
    """
    size = max(1, len(logits))
    if logits.device.type == "cpu":
        size = max(1, _BLOCK_ELEMENTS // logits.shape[-1])
    tokens = logits.new_full((len(logits),), -1, dtype=torch.long) if ids is None else ids
    blocks = zip(logits.split(size), base_logits.split(size), tokens.split(size), strict=True)
    return TokenDrift(*torch.cat([_compared(*block) for block in blocks], 1))


def _compared(logits: Tensor, base_logits: Tensor, ids: Tensor) -> Tensor:
    """The five numbers of some tokens, [5, m]; no token is -1."""
    log_p, log_q = log_softmax(logits), log_softmax(base_logits)
    p, q = log_p.exp(), log_q.exp()
    nowhere_p, nowhere_q = p == 0, q == 0

    def expected(mass: Tensor, nowhere: Tensor, values: Tensor) -> Tensor:
        return (mass * values).masked_fill_(nowhere, 0.0).sum(-1)  # 0 log 0 = 0

    d = log_q - log_p
    said = -d.gather(-1, ids.clamp(min=0)[:, None])[:, 0].masked_fill(ids < 0, torch.nan)
    # log(M/P) = common + max(d, 0) and log(M/Q) = common - min(d, 0) for M = (P + Q) / 2, exact at d = 0.
    common = d.abs().neg_().expm1_().mul_(0.5).log1p_()
    js = expected(p, nowhere_p, d.clamp(min=0).add_(common)) + expected(q, nowhere_q, common.sub_(d.clamp(max=0)))
    forward, reverse = expected(q, nowhere_q, d), -expected(p, nowhere_p, d)
    return torch.stack([forward, reverse, js / -2, -expected(p, nowhere_p, log_p), said])


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
