"""What a server answers to prompts, as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_sdpo.rollouts.engines.base import Call, Completions, Sampling
from lit_sdpo.rollouts.engines.vllm.pending import Pending

#: Tokens of a completion and their log-probabilities.
Row = tuple[list[int], list[float]]


class Ahead:
    """Completions that were asked for before they are needed.

    Args:
        pending: The answers to all prompts.
        calls: Arguments of the calls of ``generate`` that they belong to.
        sizes: Prompts of each call.
    """

    def __init__(self, pending: Pending[list[list[Row]]], calls: Sequence[Call], sizes: list[int]) -> None:
        self._pending, self._calls, self._sizes = pending, calls, sizes

    def wait(self) -> list[Completions]:
        """The completions of each call, once all are there; raises what the server's failure raises anywhere.

        Raises:
            UserError: See :class:`~lit_sdpo.rollouts.engines.vllm.VLLMEngine`.
        """
        answers = iter(self._pending.wait() or ())
        found = []
        for call, size in zip(self._calls, self._sizes, strict=True):
            rows = repeated([next(answers) for _ in range(size)], call["num_generations"], call["sampling"])
            found.append(completions_of(rows, call["end_ids"], call["pad_id"], call["seeds"].device))
        return found

    @property
    def seconds(self) -> float:
        """How long the server took, once all completions are there."""
        return self._pending.seconds

    def drop(self) -> None:
        """Do without: end the requests and their thread."""
        self._pending.drop()


def repeated(answers: Sequence[Sequence[Row]], num_generations: int, sampling: Sampling) -> list[Row]:
    """All rows; a server draws the one most likely completion once."""
    times = 1 if sampling.temperature else num_generations
    return [row for rows in answers for row in rows for _ in range(times)]


def completions_of(rows: Sequence[Row], end_ids: Sequence[int], pad_id: int, device: torch.device) -> Completions:
    """The rows as tensors, filled up to the longest."""
    width = max((len(ids) for ids, _ in rows), default=0)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row, _ in rows], dtype=torch.long)
    logprobs = torch.tensor([[*row, *[0.0] * (width - len(row))] for _, row in rows], dtype=torch.float32)
    lengths = torch.tensor([len(row) for row, _ in rows], dtype=torch.long)
    finished = torch.tensor([bool(row) and row[-1] in end_ids for row, _ in rows], dtype=torch.bool)
    shape = (len(rows), width)
    return Completions(
        ids.view(shape).to(device), lengths.to(device), logprobs.view(shape).to(device), finished.to(device)
    )
