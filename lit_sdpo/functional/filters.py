"""Filters of a sampling distribution (top-k, top-p, min-p): what they keep, and how likely a token is then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32

Filter = Literal["top_k", "top_p", "min_p"]

TRANSFORMERS_ORDER: tuple[Filter, ...] = ("top_k", "top_p", "min_p")
"""The order in which Transformers applies its warpers, each to what is left, after the temperature."""

PREFILTER = 1024
"""Most likely tokens that are sorted first for top-p; the whole vocabulary is sorted only where they fall short."""


class FilteredLogprobs(NamedTuple):
    """Log-probabilities of some tokens, without and with a filter.

    Attributes:
        full: Under the whole distribution, [...].
        filtered: Under what the filter keeps, renormalised, [...]; -inf where it drops the token.
        log_kept_mass: Log of the probability that it keeps, [...]; ``full - log_kept_mass`` is ``filtered``.
    """

    full: Tensor
    filtered: Tensor
    log_kept_mass: Tensor


def nucleus(logits: Tensor, top_p: float, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits in descending order with those outside the nucleus at -inf [N, K], and their index [N, K].

    The nucleus is the smallest set of most likely tokens with at least the mass ``top_p`` (arXiv:1904.09751). Mass is
    summed in float64: in float32 the border would depend on the order of a large vocabulary.

    Args:
        logits: [N, V]; -inf for what other filters have dropped already.
        top_p: Share of the mass of what is left.
        temperature: Divides the logits.

    Example:
        >>> nucleus(torch.tensor([[0.2, 0.5, 0.3]]).log(), 0.6)[1:]
        (tensor([[1, 2, 0]]),)
    """
    vocabulary = logits.shape[-1]
    mass = ((logits - logits.amax(-1, keepdim=True)) / temperature).exp_()
    goal = top_p * mass.sum(-1, keepdim=True, dtype=torch.float64)
    for width in (min(PREFILTER, vocabulary), vocabulary):
        ordered, order = logits.topk(width)
        reached = mass.gather(-1, order).double().cumsum(-1)
        if width == vocabulary or bool((reached[:, -1:] >= goal).all()):
            break
    before = torch.nn.functional.pad(reached[:, :-1], (1, 0))
    return ordered.masked_fill(before >= goal, -torch.inf), order


def lowest_kept(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    order: Sequence[Filter] = TRANSFORMERS_ORDER,
) -> Tensor:
    """The lowest logit that the filters keep, [N, 1]: each of them keeps what is at least as likely as something.

    Tokens that are equal to the last one kept are kept with it, as Transformers and vLLM do for top-k.

    Args:
        logits: [N, V].
        temperature: Divides the logits.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set with at least this share of what is left; 1 keeps all.
        min_p: Keep tokens of at least this share of the most likely one's probability; 0 keeps all.
        order: Which filter comes after which.

    Example:
        >>> logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
        >>> [round(lowest_kept(logits, top_p=0.75, min_p=0.3, order=order).exp().item(), 2)
        ...     for order in (TRANSFORMERS_ORDER, ("min_p", "top_k", "top_p"))]
        [0.2, 0.3]
    """
    lowest = logits.new_full((*logits.shape[:-1], 1), -torch.inf)
    for name in order:
        if name == "top_k" and 0 < top_k < logits.shape[-1]:
            lowest = torch.maximum(lowest, logits.topk(top_k).values[..., -1:])
        elif name == "top_p" and top_p < 1:
            kept, _ = nucleus(logits.masked_fill(logits < lowest, -torch.inf), top_p, temperature)
            lowest = torch.maximum(lowest, kept.masked_fill(kept == -torch.inf, torch.inf).amin(-1, keepdim=True))
        elif name == "min_p" and min_p > 0:
            # In log space: log(p / p_max) is the scaled distance to the highest logit.
            lowest = torch.maximum(lowest, logits.amax(-1, keepdim=True) + math.log(min_p) * temperature)
    return lowest


@torch.no_grad()
def filtered_logprobs(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    order: Sequence[Filter] = TRANSFORMERS_ORDER,
) -> FilteredLogprobs:
    """Log-probability of tokens under the whole distribution and under the filtered one, without gradient.

    Args:
        logits: [N, V].
        ids: int64 [N].
        temperature: Divides the logits.
        top_k: See :func:`lowest_kept`.
        top_p: See :func:`lowest_kept`.
        min_p: See :func:`lowest_kept`.
        order: See :func:`lowest_kept`.

    Example:
        >>> found = filtered_logprobs(torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([1]), top_k=2)
        >>> [round(value.exp().item(), 2) for value in found]
        [0.3, 0.33, 0.9]
    """
    logits = at_least_float32(logits)
    lowest = lowest_kept(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, order=order)
    own = logits.gather(-1, ids[:, None])
    kept = (logits.masked_fill(logits < lowest, -torch.inf) / temperature).logsumexp(-1)
    total = (logits / temperature).logsumexp(-1)
    log_kept_mass = (kept - total).clamp_(max=0.0)
    full = own[:, 0] / temperature - total
    filtered = (full - log_kept_mass).clamp_(max=0.0)
    return FilteredLogprobs(full, filtered.masked_fill((own < lowest)[:, 0], -torch.inf), log_kept_mass)
