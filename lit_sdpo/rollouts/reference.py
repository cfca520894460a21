"""Reference answers in the place of sampled completions, for supervised training on the same road as rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import render_all
from lit_sdpo.rollouts.types import Completions, Rollouts


def reference_ids(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of a row's reference answer, ended by the end token.

    Raises:
        UserError: The row has no reference answer.
    """
    if row.reference is None:
        raise UserError(
            "there is no reference answer to learn from",
            where=f"row {row.id}",
            fix="train on rows with a reference answer, or use GRPO or SDPO",
        )
    return [*tokenizer.encode(row.reference, add_special_tokens=False), int(tokenizer.eos_token_id)]


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
    encoded = [reference_ids(row, tokenizer) for row in rows]
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
