"""Reference answers in the place of sampled completions, for supervised training on the same road as rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import render_all
from lit_sdpo.rewards.thinking import Completion, Tags
from lit_sdpo.rollouts.texts import opened_by_template
from lit_sdpo.rollouts.types import Completions, Rollouts


def reference_ids(row: Row, tokenizer: PreTrainedTokenizerBase, opened: Tags | None = None) -> list[int]:
    """Tokens of a row's reference answer, ended by the end token.

    Args:
        row: With a reference answer.
        tokenizer: With an end token.
        opened: The block of thinking in which the prompt ends; an answer that does not close it would be no answer, so
            it is closed before the answer begins.

    Raises:
        UserError: The row has no reference answer.
    """
    if row.reference is None:
        raise UserError(
            "there is no reference answer to learn from",
            where=f"row {row.id}",
            fix="train on rows with a reference answer, or use GRPO or SDPO",
        )
    text = row.reference
    if opened is not None and Completion(text, opened=opened).answer is None:
        text = f"{opened.closing}\n\n{text}"
    return [*tokenizer.encode(text, add_special_tokens=False), int(tokenizer.eos_token_id)]


def reference_rollouts(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | str = "cpu",
    template_options: Mapping[str, Any] | None = None,
) -> Rollouts:
    """The rows' reference answers as one finished completion each, without verdicts and with rewards of nan.

    Args:
        rows: The P prompts with their answers.
        tokenizer: With a chat template, an end token and a padding token.
        device: Of the tensors.
        template_options: Further arguments of the chat template.

    Raises:
        UserError: A row has no reference answer.
    """
    opened = opened_by_template(tokenizer, template_options)
    encoded = [reference_ids(row, tokenizer, opened) for row in rows]
    lengths = torch.tensor([len(ids) for ids in encoded])
    ids = torch.full((len(rows), max(map(len, encoded), default=0)), tokenizer.pad_token_id)
    for n, tokens in enumerate(encoded):
        ids[n, : len(tokens)] = torch.tensor(tokens)
    completions = Completions(
        ids=ids.to(device),
        lengths=lengths.to(device),
        logprobs=torch.zeros(ids.shape, device=device),
        finished=torch.ones(len(rows), dtype=torch.bool, device=device),
    )
    return Rollouts(
        rows=rows,
        prompt_ids=render_all(tokenizer, [row.messages for row in rows], template_options),
        num_generations=1,
        completions=completions,
        texts=[row.reference or "" for row in rows],
        verdicts=[],
        rewards=torch.full((len(rows),), torch.nan, device=device),
        seeds=torch.zeros(len(rows), dtype=torch.long, device=device),
    )
