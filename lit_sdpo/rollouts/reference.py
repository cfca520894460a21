"""Reference answers in the place of sampled completions, for supervised training on the same road as rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rollouts.types import Completions


def reference_completions(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Completions:
    """The rows' reference answers, each ended by the end token, one per row.

    Raises:
        UserError: A row has no reference answer.
    """
    encoded = []
    for row in rows:
        if row.reference is None:
            raise UserError(
                "there is no reference answer to learn from",
                where=f"row {row.id}",
                fix="train on rows with a reference answer, or use GRPO or SDPO",
            )
        encoded.append([*tokenizer.encode(row.reference, add_special_tokens=False), tokenizer.eos_token_id])
    lengths = torch.tensor([len(ids) for ids in encoded])
    ids = torch.full((len(rows), int(lengths.max())), tokenizer.pad_token_id)
    for n, tokens in enumerate(encoded):
        ids[n, : len(tokens)] = torch.tensor(tokens)
    return Completions(
        ids=ids.to(device),
        lengths=lengths.to(device),
        logprobs=torch.zeros(ids.shape, device=device),
        finished=torch.ones(len(rows), dtype=torch.bool, device=device),
    )
