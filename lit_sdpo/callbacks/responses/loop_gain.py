"""Whether the teacher asks for more of what the student already says too often."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typing_extensions import TypeIs

from lit_sdpo.functional.artifacts import word_spans
from lit_sdpo.functional.logprobs import default_chunk_size
from lit_sdpo.modules.taught import Taught
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, scorer
from lit_sdpo.policies.sharding import is_sharded
from lit_sdpo.rollouts.generate import token_lists
from lit_sdpo.rollouts.texts import turn_tokens
from lit_sdpo.rollouts.types import Rollouts


@dataclass(frozen=True)
class LoopGain:
    """Log-probability under the teacher less that under the student, of tokens that the student sampled.

    Attributes:
        amplified: Mean over the tokens of the n-grams, nats; nan where there is none.
        other: Mean over all other tokens, nats.
        share: Share of tokens that belong to one of the n-grams.
        of_ngram: Mean over the tokens of each n-gram that occurred, nats.
    """

    amplified: float
    other: float
    share: float
    of_ngram: dict[str, float]


def has_teacher(module: object) -> TypeIs[Taught]:
    """Whether a module can be asked.

    Not where weights are divided among processes, which would all have to ask as often.
    """
    return isinstance(module, Taught) and not is_sharded(module.policy)


@torch.no_grad()
def loop_gain(module: Taught, rollouts: Rollouts, ngrams: Collection[str]) -> LoopGain | None:
    """Ask teacher and student, each with its own prompt, about the same completions.

    Args:
        module: A method with a teacher, such as :class:`~lit_sdpo.modules.SDPO`.
        rollouts: Scored completions of whole groups.
        ngrams: N-grams of words, parted by blanks.

    Returns:
        ``None`` where the teacher has a context for no row.
    """
    prompts, routes = module.teacher_prompts(rollouts).ids, module.routes(rollouts)
    contexts = {n: prompt for n, prompt in enumerate(prompts) if prompt is not None}
    if not contexts:
        return None
    known, options = list(contexts), module.chat_template_options
    ids, mask = rollouts.completions.ids[known], rollouts.completion_mask[known]
    asked = Sequences([rollouts.prompt_ids[n // rollouts.num_generations] for n in known], ids, mask)
    told = Sequences(list(contexts.values()), ids, mask, [routes[n] for n in known])
    tokens, temperature = ids[mask], rollouts.temperature or 1.0
    vocabulary = module.policy.config.get_text_config().vocab_size
    teacher = _logprobs(module.teacher.scorer(module.policy, told), tokens, vocabulary, temperature)
    student = _logprobs(scorer(module.policy, asked), tokens, vocabulary, temperature)
    gain = (teacher - student).double().cpu()
    lists = token_lists(rollouts.completions)
    inside = torch.zeros(len(gain), dtype=torch.bool)
    places: dict[str, list[int]] = {}
    start, dropped = 0, turn_tokens(module.tokenizer, template_options=options)
    for n in known:
        for ngram, found in ngram_places(module.tokenizer, lists[n], ngrams, dropped).items():
            here = [start + place for place in sorted(found)]
            places.setdefault(ngram, []).extend(here)
            inside[here] = True
        start += len(lists[n])
    return LoopGain(
        amplified=float(gain[inside].mean()),
        other=float(gain[~inside].mean()),
        share=float(inside.double().mean()),
        of_ngram={ngram: float(gain[some].mean()) for ngram, some in places.items()},
    )


def _logprobs(score: Scorer, tokens: Tensor, vocabulary: int, temperature: float) -> Tensor:
    """Log-probabilities of M tokens, [M]; the logits of a chunk at a time."""
    size = default_chunk_size(vocabulary, tokens.device)
    spans = (slice(start, start + size) for start in range(0, len(tokens), size))
    parts = [(score(span) / temperature).log_softmax(-1).gather(-1, tokens[span, None])[:, 0] for span in spans]
    return torch.cat(parts)


def ngram_places(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ngrams: Collection[str], dropped: Collection[int] = ()
) -> dict[str, set[int]]:
    """The tokens that write each n-gram.

    Args:
        tokenizer: Decodes.
        ids: A completion's tokens.
        ngrams: N-grams of words, parted by blanks.
        dropped: Tokens that are no text.

    Returns:
        N-gram to indices of tokens, of those n-grams that occur.
    """
    pieces = _pieces(tokenizer, list(ids), dropped)
    owners = [n for n, piece in enumerate(pieces) for _ in piece]
    spans = list(word_spans("".join(pieces)))
    found: dict[str, set[int]] = {}
    for order in {ngram.count(" ") + 1 for ngram in ngrams}:
        for n in range(len(spans) - order + 1):
            ngram = " ".join(word for word, _, _ in spans[n : n + order])
            if ngram in ngrams:
                places = {owners[i] for _, start, end in spans[n : n + order] for i in range(start, end)}
                found.setdefault(ngram, set()).update(places)
    return found


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int], dropped: Collection[int]) -> list[str]:
    """What each token adds to the text."""

    def decode(some: list[int]) -> str:
        return str(tokenizer.decode([n for n in some if n not in dropped], skip_special_tokens=False))

    pieces = [decode([token]) for token in ids]
    if "".join(pieces) == decode(ids):
        return pieces
    # Some tokenizers drop the blank before a first word, and a character may be cut in two: look a few tokens back.
    return [decode(ids[max(n - 4, 0) : n + 1])[len(decode(ids[max(n - 4, 0) : n])) :] for n in range(len(ids))]
