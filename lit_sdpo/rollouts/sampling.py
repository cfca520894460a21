"""Draw tokens by inverse CDF from counter-based random numbers: no row's tokens depend on its neighbours."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.filters import nucleus
from lit_sdpo.rollouts.engines.base import Sampling

BLOCK = 256
"""Tokens per block of the two-level cumulative sum."""


class Sampled(NamedTuple):
    """One token of each row.

    Attributes:
        ids: int64 [N].
        logprobs: Under the distribution they were drawn from, float32 [N].
        log_kept_mass: Log of the probability that the filters kept, float32 [N]; 0 without filters.
    """

    ids: Tensor
    logprobs: Tensor
    log_kept_mass: Tensor


def sample_seeds(seed: int, *stream: int | str, item_ids: Sequence[str], num_generations: int) -> Tensor:
    """One seed per row from what identifies the row, the same in every process and on every machine.

    Args:
        seed: Seed of the run.
        *stream: What sets these draws apart from others, such as ``"train"``, the stage and the step.
        item_ids: Identity of each of P prompts.
        num_generations: Completions per prompt, G.

    Returns:
        int64 [P·G]; row ``p * G + g`` belongs to prompt p.

    Example:
        >>> sample_seeds(0, "train", 0, 3, item_ids=["a", "b"], num_generations=2).shape
        torch.Size([4])
    """

    def digest(item: str, generation: int) -> int:
        text = json.dumps([seed, *stream, item, generation])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)

    seeds = [digest(item, generation) for item in item_ids for generation in range(num_generations)]
    return torch.tensor(seeds, dtype=torch.int64)


def uniforms(seeds: Tensor, position: int | Tensor) -> Tensor:
    """Uniform numbers in [0, 1) that depend on seed and position alone, the same on every device.

    Element-wise SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"): the state
    ``mix(seed) + (position + 1) * golden`` goes through ``mix``, and its upper 53 bits are the number.

    Args:
        seeds: int64 [N].
        position: Index of the token within the completion; a tensor broadcasts against ``seeds``.

    Returns:
        float64, the broadcast shape of ``seeds`` and ``position``.

    Example:
        >>> uniforms(torch.tensor([1, 2]), 0).tolist() == uniforms(torch.tensor([2, 1]), 0).flip(0).tolist()
        True
    """
    position = torch.as_tensor(position, device=seeds.device)
    state = _mix(seeds) + (position + 1) * _GOLDEN
    return _shift(_mix(state), 11).double() * 2.0**-53


@torch.no_grad()
def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor, *, scratch: Tensor | None = None) -> Sampled:
    """Draw one token per row by inverting the cumulative distribution at the row's uniform number.

    The distribution is ``softmax(logits / temperature)`` in float32, cut by top-k, then top-p, then min-p, and
    renormalised. A token of probability 0 is never drawn, whatever the rounding. Temperature 0 takes the most likely
    token; its log-probability is that under the plain distribution (temperature 1, no filters).

    Args:
        logits: [N, V], left unchanged. ``-inf`` forbids a token.
        sampling: Temperature and filters.
        uniforms: Numbers in [0, 1), [N].
        scratch: float32 storage that is reused from call to call, of at least N × V rounded up to 256 elements.

    Raises:
        FloatingPointError: If a row holds nan or +inf, or allows no token.

    Example:
        >>> drawn = sample(torch.tensor([[0.0, 0.0]]), Sampling(), torch.tensor([0.7]))
        >>> drawn.ids.item(), round(drawn.logprobs.exp().item(), 3)
        (1, 0.5)
    """
    logits = logits.float()
    highest = logits.amax(-1, keepdim=True)
    if not bool(highest.isfinite().all()):
        raise FloatingPointError(
            "the policy's logits are not finite (nan or +inf, or no token allowed): its weights have probably diverged"
        )
    if sampling.temperature == 0:
        logprobs = (highest - logits.logsumexp(-1, keepdim=True)).squeeze(-1)
        return Sampled(logits.argmax(-1), logprobs, torch.zeros_like(logprobs))
    vocabulary = logits.shape[-1]
    if sampling.filtered:
        whole = _weights(logits, highest, sampling.temperature, scratch).sum(-1).double().sum(-1)
    candidates: Tensor | None = None
    if 0 < sampling.top_k < vocabulary:
        logits, candidates = logits.topk(sampling.top_k)
    if sampling.top_p < 1:
        logits, order = nucleus(logits, sampling.top_p, sampling.temperature)
        candidates = order if candidates is None else candidates.gather(-1, order)
    if sampling.min_p > 0:
        # min-p in log space: log(p / p_max) is the scaled distance to the highest logit.
        keep = logits - highest >= math.log(sampling.min_p) * sampling.temperature
        logits = logits.masked_fill(~keep, -torch.inf)
    index, logprobs, total = _invert_cdf(logits, highest, sampling.temperature, uniforms, scratch)
    log_kept_mass = torch.zeros_like(logprobs)
    if sampling.filtered:
        log_kept_mass = (total / whole[:, None]).log_().clamp_(max=0.0).float()
    ids = index if candidates is None else candidates.gather(-1, index)
    return Sampled(ids.squeeze(-1), logprobs.squeeze(-1), log_kept_mass.squeeze(-1))


def _invert_cdf(
    logits: Tensor, highest: Tensor, temperature: float, uniforms: Tensor, scratch: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Index [N, 1] and log-probability [N, 1] of the token at each row's uniform; block sums first, then one block.

    The third is the sum of ``exp((logits - highest) / temperature)`` of a row, float64 [N, 1].
    """
    weights = _weights(logits, highest, temperature, scratch)
    rows, blocks, _ = weights.shape
    # float64 sums: a cut just below the total then always falls on a token of positive weight.
    sums = weights.sum(-1).double()
    upper = sums.cumsum(-1)
    total = upper[:, -1:]
    target = torch.minimum(uniforms.double()[:, None] * total, total * _BELOW_ONE)
    block = torch.searchsorted(upper, target, right=True)
    chosen = block + torch.arange(0, rows * blocks, blocks, device=block.device)[:, None]
    inside = weights.view(-1, BLOCK).index_select(0, chosen.flatten()).double().cumsum(-1)
    rest = target - (upper.gather(-1, block) - sums.gather(-1, block))
    rest = torch.minimum(rest.clamp_(min=0), inside[:, -1:] * _BELOW_ONE)
    index = torch.searchsorted(inside, rest, right=True) + block * BLOCK
    logprobs = (logits.gather(-1, index) - highest) / temperature - total.log().float()
    return index, logprobs, total


def _weights(logits: Tensor, highest: Tensor, temperature: float, scratch: Tensor | None) -> Tensor:
    """``exp((logits - highest) / temperature)`` in blocks, the last one filled up with 0, in the memory of scratch."""
    rows, vocabulary = logits.shape
    blocks = -(-vocabulary // BLOCK)
    if scratch is None or scratch.numel() < rows * blocks * BLOCK:
        scratch = logits.new_empty(rows * blocks * BLOCK)
    weights = scratch[: rows * blocks * BLOCK].view(rows, blocks, BLOCK)
    flat = weights.view(rows, -1)
    flat[:, vocabulary:] = 0
    body = flat[:, :vocabulary]
    torch.sub(logits, highest, out=body)
    if temperature != 1:
        body.div_(temperature)
    body.exp_()
    return weights


_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_BELOW_ONE = 1 - 2.0**-52


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, with the wrap-around of int64."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)
