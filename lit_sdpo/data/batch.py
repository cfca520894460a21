"""The batch that travels from the data module through the rollout callback to the module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lit_sdpo.data.task import Row, Task
from lit_sdpo.rollouts.types import LossBatch


class PromptBatch:
    """The prompts of one window, for one of its slots, or some prompts of an evaluation.

    Attributes:
        task: The task that the prompts belong to.
        rows: This rank's prompts.
        positions: Place of each prompt among the prompts of all ranks; decides what is sampled for it.
        stage: Index of the stage in the stream.
        step: Optimizer step within the stage.
        slot: Which micro-batch of the step this is.
        slots: Micro-batches per step.
        update: How often the window's rollouts have been trained on before; 0 asks for fresh ones.
        updates: How many updates the window's rollouts get in all.
        num_generations: Completions per prompt in evaluation; ``None`` leaves it to the rollout callback.
        replays: Prompts of earlier stages' tasks that are trained on along with these, a batch per task.
        spare: From a round to further prompts of the same task, as many as these; for dynamic sampling.
        following: Gives the stage's next window on a window's last update, ``None`` before that and at the stage's end;
            for completions that are asked for ahead.
        loss: Set by the rollout callback: the rows of this slot.
        contributing_rows: Set by the rollout callback: how many rows of the window can have a gradient, over all ranks.
    """

    def __init__(
        self,
        task: Task,
        rows: Sequence[Row],
        positions: Sequence[int],
        *,
        stage: int = 0,
        step: int = 0,
        slot: int = 0,
        slots: int = 1,
        update: int = 0,
        updates: int = 1,
        num_generations: int | None = None,
        replays: Sequence[PromptBatch] = (),
        spare: Callable[[int], PromptBatch] | None = None,
        following: Callable[[], PromptBatch | None] = lambda: None,
    ) -> None:
        self.task, self.rows, self.positions = task, rows, positions
        self.stage, self.step, self.slot, self.slots, self.update = stage, step, slot, slots, update
        self.updates = updates
        self.num_generations, self.replays, self.spare = num_generations, replays, spare
        self.following = following
        self.loss: LossBatch | None = None
        self.contributing_rows: int | None = None

    def __len__(self) -> int:
        """Number of prompts on this rank."""
        return len(self.rows)

    def to(self, *args: Any, **kwargs: Any) -> PromptBatch:
        """Prompts are text: nothing to move. Lightning hands a batch with ``to`` on as it is."""
        return self
