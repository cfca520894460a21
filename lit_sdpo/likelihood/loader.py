"""Hands out the rows of a task that is scored by likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lit_sdpo.likelihood.rows import ChoiceRow, TextRow
from lit_sdpo.likelihood.tasks import LikelihoodTask


@dataclass(frozen=True)
class LikelihoodBatch:
    """Some rows of a task.

    Attributes:
        task: The task.
        positions: Their places among the rows of all processes.
    """

    task: LikelihoodTask
    positions: Sequence[int]

    def to(self, *args: Any, **kwargs: Any) -> LikelihoodBatch:
        """Rows are text: nothing to move. Lightning hands a batch with ``to`` on as it is."""
        return self


class LikelihoodLoader:
    """The rows of one task.

    Args:
        task: The task.
        rows: Its rows.
        batch_size: Rows per batch; how many go through the model at once is the task's ``batch_tokens``.
        rank: This process.
        world_size: Number of processes; each row goes to exactly one.
    """

    def __init__(
        self,
        task: LikelihoodTask,
        rows: Sequence[ChoiceRow | TextRow],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.task, self.rows, self.batch_size = task, rows, batch_size
        self.positions = range(rank, len(rows), world_size)

    def __len__(self) -> int:
        """Number of batches on this rank."""
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[LikelihoodBatch]:
        """All rows of this rank, in order."""
        for start in range(0, len(self.positions), self.batch_size):
            yield LikelihoodBatch(self.task, self.positions[start : start + self.batch_size])
