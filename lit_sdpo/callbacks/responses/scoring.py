"""Draw responses from a model, and ask two models what they think of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from lit_sdpo.callbacks.responses.models import Weights
from lit_sdpo.callbacks.responses.prompts import Prompts
from lit_sdpo.functional.excess_kl import excess_kl_bounds
from lit_sdpo.functional.logprobs import default_chunk_size
from lit_sdpo.functional.response_drift import pairwise_cosine, sum_by_row, token_drift
from lit_sdpo.policies.load import end_token_ids
from lit_sdpo.policies.packing import Sequences, batches
from lit_sdpo.policies.scoring import completion_hidden, logits
from lit_sdpo.rollouts.engines.base import Completions, Sampling
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.texts import completion_texts

#: Most tokens that are written at once.
DRAWN_TOKENS = 32_768


@dataclass(frozen=True)
class Responses:
    """G responses to each of P prompts, N = P·G rows.

    Attributes:
        sequences: Prompts and responses.
        num_generations: G.
        lengths: Tokens of each, [N].
        finished: Whether each ended with an end token, bool [N].
        texts: The responses.
        successes: Whether each is right, [N], nan where nobody knows; ``None`` without a verifier.
    """

    sequences: Sequences
    num_generations: int
    lengths: Tensor
    finished: Tensor
    texts: Sequence[str]
    successes: Tensor | None


def respond(
    weights: Weights,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Prompts],
    *,
    num_generations: int,
    max_new_tokens: int,
    seed: int,
    stream: str,
    batch_size: int | None = None,
) -> dict[str, Responses]:
    """Sample from the model's own distribution at temperature 1; takes nothing from a global generator.

    Args:
        weights: The model.
        tokenizer: Decodes.
        asked: Prompts of some tasks.
        num_generations: G.
        max_new_tokens: Longest response.
        seed: Of the draws.
        stream: What sets these draws apart from others of the same seed.
        batch_size: Prompts, of whatever task, that are answered at once; changes no response. ``None`` takes as many
            as cannot write more than 32,768 tokens.
    """
    model, g = weights.model, num_generations
    size = batch_size or max(1, DRAWN_TOKENS // (g * max_new_tokens))
    seeds = torch.cat(
        [sample_seeds(seed, "response_drift", stream, p.task, item_ids=p.names, num_generations=g) for p in asked]
    ).to(model.device)
    prompts = [ids for p in asked for ids in p.ids]
    end_ids = end_token_ids(model, tokenizer) if tokenizer.eos_token_id is not None else []
    drawn: list[Completions] = []
    for start in range(0, len(prompts), size):
        with weights.within():
            part = NativeEngine().generate(
                model,
                prompts[start : start + size],
                num_generations=g,
                sampling=Sampling(max_new_tokens=max_new_tokens),
                seeds=seeds[start * g : (start + size) * g],
                end_ids=end_ids,
                pad_id=tokenizer.pad_token_id or 0,
            )
        drawn += [part.select(slice(n, n + 1)) for n in range(len(part.lengths))]
    found, start = {}, 0
    for p in asked:
        own = drawn[start : start + len(p.ids) * g]
        start += len(own)
        width = max(int(row.lengths) for row in own)
        lengths = torch.cat([row.lengths for row in own])
        mask = torch.arange(width, device=lengths.device) < lengths[:, None]
        ids = torch.cat([pad(row.ids, (0, width))[:, :width] for row in own])
        repeated = [prompt for prompt in p.ids for _ in range(g)]
        finished = torch.cat([row.finished for row in own])
        texts = completion_texts(
            tokenizer,
            p.ids,
            [row.messages for row in p.rows] or [()] * len(p.ids),
            [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)],
            finished.tolist(),
            end_ids=end_ids,
        )
        found[p.task] = Responses(Sequences(repeated, ids, mask), g, lengths, finished, texts, p.successes(texts, g))
    return found


def compare(policy: Weights, base: Weights, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """What separates two models on some responses.

    Logits exist for a chunk of tokens at a time, hidden states for a batch of rows.

    Args:
        policy: The model in question.
        base: What it is compared with.
        sequences: N prompts and responses.

    Returns:
        The sums over each response's tokens of :class:`~lit_sdpo.functional.response_drift.TokenDrift`, float64 [N, 5],
        and the means of the base's last hidden states from which those tokens are predicted, float32 [N, D].
    """
    sums, features = [], []
    for part in batches(sequences):
        with policy.within():
            hidden = completion_hidden(policy.model, part)
        base_hidden = hidden
        if base != policy:  # before training they are one
            with base.within():
                base_hidden = completion_hidden(base.model, part)
        rows, said = part.completion_mask.nonzero(as_tuple=True)[0], part.completion_ids[part.completion_mask]
        found = []
        for span in _spans(policy.model, hidden):
            with policy.within():
                mine = theirs = logits(policy.model, hidden[span])
            if base != policy:
                with base.within():
                    theirs = logits(base.model, base_hidden[span])
            found.append(torch.stack(token_drift(mine, theirs, said[span]), -1))
        sums.append(sum_by_row(torch.cat(found), rows, len(part)))
        features.append(_mean_by_row(base_hidden, part.completion_mask))
    return torch.cat(sums).cpu(), torch.cat(features).cpu()


def prompt_features(base: Weights, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Mean of the base's last hidden states over the tokens of each prompt, float32 [P, D]."""
    device = base.model.device
    # The first token is the prompt, the rest is predicted; a last one, never read, makes the last state count too.
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt) - 1] = torch.as_tensor(prompt[1:], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    mask = torch.arange(width, device=device) < lengths[:, None]
    features = []
    for part in batches(Sequences([prompt[:1] for prompt in prompts], ids, mask)):
        with base.within():
            features.append(_mean_by_row(completion_hidden(base.model, part), part.completion_mask))
    return torch.cat(features).cpu()


def _together(several: Sequence[Sequences]) -> Sequences:
    width = max(one.completion_ids.shape[1] for one in several)
    prompts = [prompt for one in several for prompt in one.prompt_ids]
    ids, mask = (
        torch.cat([pad(x, (0, width - x.shape[1])) for x in tensors])
        for tensors in zip(*((one.completion_ids, one.completion_mask) for one in several), strict=True)
    )
    return Sequences(prompts, ids, mask)


def _spans(model: Any, hidden: Tensor) -> Iterator[slice]:
    size = default_chunk_size(model.config.get_text_config().vocab_size, hidden.device)
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _mean_by_row(hidden: Tensor, mask: Tensor) -> Tensor:
    rows = mask.nonzero(as_tuple=True)[0]
    return (sum_by_row(hidden, rows, len(mask)) / mask.sum(1, keepdim=True)).float()


def response_numbers(
    policy: Weights,
    base: Weights,
    answers: Sequence[tuple[Responses, Responses]],
    encode: Callable[[Sequence[str]], Tensor] | None = None,
) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Numerator and denominator of each number of :class:`~lit_sdpo.callbacks.ResponseDrift`, of each prompt [P].

    Args:
        policy: The model in question.
        base: What it is compared with.
        answers: Of each task the policy's and the base's responses to the same prompts.
        encode: From N texts to features [N, D]; ``None`` takes the base's hidden states.

    Returns:
        Those of each task.
    """
    every = [responses for pair in answers for responses in pair]
    counts = [len(responses.texts) for responses in every]
    sums, features = (x.split(counts) for x in compare(policy, base, _together([r.sequences for r in every])))
    if encode is not None:
        features = tuple(encode(responses.texts) for responses in every)
    compared = zip(answers, sums[::2], sums[1::2], features[::2], features[1::2], strict=True)
    return [_numbers(*pair, *own) for pair, *own in compared]


def _numbers(
    mine: Responses, theirs: Responses, on_mine: Tensor, on_theirs: Tensor, my_features: Tensor, their_features: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    g = mine.num_generations

    def of_prompts(rows: Tensor) -> Tensor:
        return rows.cpu().double().view(-1, g).mean(1)

    forward, reverse = of_prompts(on_theirs[:, 0]), of_prompts(on_mine[:, 1])
    tokens, base_tokens = of_prompts(mine.lengths), of_prompts(theirs.lengths)
    one = torch.ones_like(forward)
    numbers = {
        "forward_kl": (forward, one),
        "reverse_kl": (reverse, one),
        "forward_kl_per_token": (forward, base_tokens),
        "reverse_kl_per_token": (reverse, tokens),
        "js": (of_prompts(on_mine[:, 2] + on_theirs[:, 2]), tokens + base_tokens),
        "entropy": (of_prompts(on_mine[:, 3]), tokens),
        "length": (tokens, one),
        "truncated": (of_prompts(~mine.finished), one),
        "similarity": (pairwise_cosine(my_features.view(len(one), g, -1), their_features.view(len(one), g, -1)), one),
    }
    if mine.successes is not None and theirs.successes is not None:
        log_ratios, right = (x.cpu().view(-1, g) for x in (on_mine[:, 4], mine.successes))
        base_log_ratios, base_right = (x.cpu().view(-1, g) for x in (on_theirs[:, 4], theirs.successes))
        bounds = excess_kl_bounds(log_ratios, right, base_log_ratios, base_right)
        judged = (~right.isnan()).any(1).double()
        for name, bound in zip(("excess_kl", "excess_kl_at_most"), bounds, strict=True):
            numbers[name] = (bound.masked_fill(judged == 0, 0.0), judged)
    return numbers
