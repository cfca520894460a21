"""The fixed prompts that are asked again and again: of a data module's tasks, or written down."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lit_sdpo.data.base import stream_of
from lit_sdpo.data.task import Row, Task
from lit_sdpo.errors import UserError
from lit_sdpo.policies.held import template_options_in, tokenizer_in
from lit_sdpo.policies.load import render_all
from lit_sdpo.rewards.pool import verify_all
from lit_sdpo.rewards.scores import verifier_scores

#: Task to its prompts, each a text or a list of chat messages.
GivenPrompts = dict[str, list[Any]]


@dataclass(frozen=True)
class Prompts:
    """The P prompts of a task that are asked again and again.

    Attributes:
        task: Its name.
        names: Identity of each prompt.
        ids: Their tokens.
        texts: Their text, for a sentence encoder.
        rows: What a verifier needs to know of each; empty without one.
        verifier: Judges responses.
    """

    task: str
    names: Sequence[str]
    ids: Sequence[list[int]]
    texts: Sequence[str]
    rows: Sequence[Row] = ()
    verifier: Task | None = None

    def first(self, count: int) -> Prompts:
        """The first of them."""
        cut = slice(count)
        return replace(self, names=self.names[cut], ids=self.ids[cut], texts=self.texts[cut], rows=self.rows[cut])

    def successes(self, texts: Sequence[str], num_generations: int) -> Tensor | None:
        """Which of the responses [P·G] are right, nan where the verifier abstains; ``None`` without a verifier."""
        if self.verifier is None:
            return None
        verdicts = verify_all(self.verifier, texts, [row for row in self.rows for _ in range(num_generations)])
        scores = verifier_scores(verdicts)
        return (scores >= 1).float().masked_fill(scores.isnan(), math.nan)


def given_prompts(prompts: GivenPrompts, module: pl.LightningModule, count: int, seed: int) -> list[Prompts]:
    """Prompts that were written down; texts are tokenized as they are, chats through the template.

    Args:
        prompts: By task.
        module: Has the ``tokenizer``.
        count: Most prompts per task.
        seed: Of the choice.
    """
    tokenizer, options = tokenizer_in(module), template_options_in(module)
    found = []
    for task, every in prompts.items():
        names = chosen([str(n) for n in range(len(every))], count, seed)
        some = [every[int(n)] for n in names]
        ids: list[list[int]] = [
            tokenizer(p)["input_ids"] if isinstance(p, str) else render_all(tokenizer, [p], options)[0] for p in some
        ]
        if not ids or not all(ids):
            raise UserError("no prompt, or an empty one", where=f"ResponseDrift.prompts.{task}", fix="give some text")
        found.append(Prompts(task, names, ids, [p if isinstance(p, str) else _text(p) for p in some]))
    return found


def evaluated_prompts(trainer: pl.Trainer, module: pl.LightningModule, count: int, seed: int) -> list[Prompts]:
    """Validation prompts of a data module's tasks and probes.

    Args:
        trainer: May have a data module with ``evaluated`` and ``evaluation_rows``.
        module: Has the ``tokenizer``.
        count: Most prompts per task.
        seed: Of the choice.
    """
    data, options = stream_of(trainer), template_options_in(module)
    found = []
    for task in data.evaluated:
        rows: dict[str, Row] = {row.id: row for row in data.evaluation_rows(task, "validation")}
        names = chosen(list(rows), count, seed)
        some = [rows[name] for name in names]
        ids = render_all(tokenizer_in(module), [row.messages for row in some], options)
        found.append(Prompts(task.name, names, ids, [_text(row.messages) for row in some], some, task))
    return found


def chosen(names: list[str], count: int, seed: int) -> list[str]:
    """The first ``count`` in an order that depends on seed and names alone."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode()).digest())[:count]


def _text(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)
