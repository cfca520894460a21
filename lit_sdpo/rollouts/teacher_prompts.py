"""The teacher's prompt of each row: the student's own, or one that tells more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase

from lit_sdpo.policies.load import render_all
from lit_sdpo.policies.teachers import Reads
from lit_sdpo.rollouts.reprompt import Contexts, Reprompt
from lit_sdpo.rollouts.types import Rollouts

#: Where what a teacher's prompt tells comes from; ``question`` tells no more than the student's.
Source = Literal["sibling", "column", "feedback", "question", "none"]
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True)
class TeacherPrompts:
    """What the teacher reads before each of N completions.

    Attributes:
        ids: Token ids of each prompt; ``None`` for a row that is not taught.
        sources: Where what it tells comes from.
        truncated: How many had a demonstration that was shortened or dropped for the budget.
    """

    ids: list[list[int] | None]
    sources: list[Source]
    truncated: int


def teacher_prompts(
    rollouts: Rollouts,
    reprompt: Reprompt,
    reads: Sequence[Reads],
    tokenizer: PreTrainedTokenizerBase,
    chat_template_options: Mapping[str, Any] | None = None,
) -> TeacherPrompts:
    """The prompts of all rows of the current task; replayed ones are not taught.

    Args:
        rollouts: Scored completions.
        reprompt: Builds privileged contexts.
        reads: What the teacher of each row reads, N values.
        tokenizer: Encodes.
        chat_template_options: Further arguments of the chat template, as in training.
    """
    contexts = Contexts([None] * len(rollouts), [], [], ["none"] * len(rollouts), 0)
    if any(each != "question" for each in reads):
        contexts = reprompt.contexts(rollouts, tokenizer, chat_template_options)
    told = [None if each == "question" else messages for each, messages in zip(reads, contexts.messages, strict=True)]
    # The members of a group mostly share one context: render each once.
    rendered = {repr(messages): messages for messages in told if messages is not None}
    prompts = render_all(tokenizer, list(rendered.values()), chat_template_options)
    encoded = dict(zip(rendered, prompts, strict=True))
    ids: list[list[int] | None] = []
    sources: list[Source] = []
    for n, mine in enumerate(rollouts.own.tolist()):
        messages = told[n]
        if mine and messages is not None:
            ids.append(encoded[repr(messages)])
            sources.append(contexts.sources[n])
        elif mine and reads[n] != "privileged":
            ids.append(rollouts.prompt_ids[n // rollouts.num_generations])
            sources.append("question")
        else:
            ids.append(None)
            sources.append("none")
    return TeacherPrompts(ids, sources, contexts.truncated)
