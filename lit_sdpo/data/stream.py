"""The stream of prompts: which prompts each optimizer step sees, and the loaders that hand them out.

A *window* is what one optimizer step needs. Lightning takes a step every ``accumulate_grad_batches`` batches, so the
loader hands out each window that many times, once per *slot*; the rollout callback fills the slots.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.data.mixture import Mixture, mixed
from lit_sdpo.data.task import Row, Stage, Task


class PromptStream:
    """Endless, seeded order over rows: a new permutation each time all have been seen.

    Args:
        rows: The rows of a task's training split.
        seed: Anything that identifies the order: the run's seed and the stage, for example.

    Example:
        >>> stream = PromptStream(["a", "b", "c"], seed=(0, 1))
        >>> sorted(stream[i] for i in range(3)) == sorted(stream[i] for i in range(3, 6)) == ["a", "b", "c"]
        True
    """

    def __init__(self, rows: Sequence[Row], seed: Sequence[int]) -> None:
        self.rows, self.seed = rows, tuple(seed)
        self._pass, self._order = -1, np.empty(0, dtype=np.int64)

    def again(self, seed: Sequence[int]) -> PromptStream:
        """The same rows in another order."""
        return PromptStream(self.rows, seed)

    def __getitem__(self, index: int) -> Row:
        """The row at a place of the order; any place, at any time."""
        number, place = divmod(index, len(self.rows))
        if number != self._pass:
            self._pass, self._order = number, np.random.default_rng([*self.seed, number]).permutation(len(self.rows))
        return self.rows[int(self._order[place])]


class MixedStream:
    """The rows of a mixture at its shares, each task's in a seeded order of its own.

    Args:
        mixture: The tasks.
        seed: Anything that identifies the order.
        prompts: Prompts of a window.
        windows: Windows of the stage.
    """

    def __init__(self, mixture: Mixture, seed: Sequence[int], prompts: int, windows: int) -> None:
        rows = [[mixed(row, part) for row in task.rows("train")] for part, task in enumerate(mixture.parts)]
        self._streams = [PromptStream(some, (*seed, 1, part)) for part, some in enumerate(rows)]
        counts = [0] * len(rows)
        self._places: list[tuple[int, int]] = []
        for part in mixture.places(prompts, windows):
            self._places.append((part, counts[part]))
            counts[part] += 1

    def again(self, seed: Sequence[int]) -> MixedStream:
        """The same rows in other orders, at the same shares."""
        other = copy.copy(self)
        other._streams = [stream.again((*seed, 1, part)) for part, stream in enumerate(self._streams)]
        return other

    def __getitem__(self, index: int) -> Row:
        """The row of a prompt of the stage."""
        part, number = self._places[index]
        return self._streams[part][number]


class WindowLoader:
    """Hands out the windows of one stage, ``slots`` times each; sized, stateful, in the trainer's process.

    Args:
        stage: Task, steps and prompts per step.
        index: Index of the stage in the stream.
        slots: The trainer's ``accumulate_grad_batches``.
        updates_per_rollout: Optimizer steps on the same window.
        seed: Seed of the order of prompts.
        rank: This process.
        world_size: Number of processes; the prompts of a step are divided among them.
        earlier: Tasks of earlier stages, for replay.
        replay_share: Prompts of earlier tasks per step, as a share of ``prompts_per_step``, rounded up.
    """

    def __init__(
        self,
        stage: Stage,
        index: int,
        *,
        slots: int = 1,
        updates_per_rollout: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        earlier: Sequence[Task] = (),
        replay_share: float = 0.0,
    ) -> None:
        self.stage, self.index, self.slots, self.updates_per_rollout = stage, index, slots, updates_per_rollout
        self.stream: PromptStream | MixedStream
        if isinstance(stage.task, Mixture):
            windows = -(-stage.steps // updates_per_rollout)
            self.stream = MixedStream(stage.task, (seed, index), stage.prompts_per_step, windows)
        else:
            self.stream = PromptStream(stage.task.rows("train"), seed=(seed, index))
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self._earlier = [PromptStream(task.rows("train"), seed=(seed, index, n)) for n, task in enumerate(earlier)]
        self._earlier_tasks = earlier
        self._replayed = math.ceil(replay_share * stage.prompts_per_step) if earlier else 0
        self._spare: dict[int, PromptStream | MixedStream] = {}
        self._start = self._handed_out = 0

    def __len__(self) -> int:
        """Micro-batches of the stage."""
        return self.stage.steps * self.slots

    def __iter__(self) -> Iterator[PromptBatch]:
        """Go on where a restored state left off, once; later passes start at the beginning."""
        start, self._start = self._start, 0
        for number in range(start, len(self)):
            self._handed_out = number + 1
            step, slot = divmod(number, self.slots)
            yield self._batch(step, slot)

    def _batch(self, step: int, slot: int) -> PromptBatch:
        window, update = divmod(step, self.updates_per_rollout)
        return PromptBatch(
            self.stage.task,
            *self._draw(self.stream, window),
            stage=self.index,
            step=step,
            slot=slot,
            slots=self.slots,
            update=update,
            updates=self.updates_per_rollout,
            replays=self._replays(window) if slot == 0 and update == 0 else (),
            spare=lambda number: self._more(window, step, number),
            following=lambda: self._following(step),
        )

    def _following(self, step: int) -> PromptBatch | None:
        """The window after a step, if the step is the last on its own window and not the stage's."""
        more = (step + 1) % self.updates_per_rollout == 0 and step + 1 < self.stage.steps
        return self._batch(step + 1, 0) if more else None

    def _draw(self, stream: PromptStream | MixedStream, window: int) -> tuple[list[Row], range]:
        """This rank's prompts of a window, and their places among those of all ranks."""
        prompts = self.stage.prompts_per_step
        positions = range(prompts)[self._share(prompts)]
        return [stream[window * prompts + position] for position in positions], positions

    def _share(self, count: int) -> slice:
        return slice(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def _replays(self, window: int) -> list[PromptBatch]:
        """Prompts of earlier tasks, which take turns."""
        batches: dict[int, tuple[list[Row], list[int]]] = {}
        for position in range(self._replayed)[self._share(self._replayed)]:
            turn, which = divmod(window * self._replayed + position, len(self._earlier))
            rows, places = batches.setdefault(which, ([], []))
            rows.append(self._earlier[which][turn])
            places.append(position)
        return [
            PromptBatch(self._earlier_tasks[which], rows, places, stage=self.index)
            for which, (rows, places) in sorted(batches.items())
        ]

    def _more(self, window: int, step: int, number: int) -> PromptBatch:
        """As many prompts again, from an order of their own for each round."""
        if number not in self._spare:
            self._spare[number] = self.stream.again(seed=(self.seed, self.index, 0, number))
        return PromptBatch(self.stage.task, *self._draw(self._spare[number], window), stage=self.index, step=step)

    def state_dict(self) -> dict[str, Any]:
        """How many micro-batches have been handed out."""
        return {"handed_out": self._handed_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after that many micro-batches."""
        self._start = self._handed_out = state["handed_out"]


class EvaluationLoader:
    """Hands out the evaluation prompts of one task.

    Args:
        task: A trained task or a probe.
        rows: The prompts.
        num_generations: Completions per prompt.
        batch_size: Prompts per batch.
        rank: This process.
        world_size: Number of processes; each prompt goes to exactly one.
    """

    def __init__(
        self,
        task: Task,
        rows: Sequence[Row],
        *,
        num_generations: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.task, self.rows = task, rows
        self.num_generations, self.batch_size = num_generations, batch_size
        self.positions = range(rank, len(rows), world_size)

    def __len__(self) -> int:
        """Number of batches on this rank."""
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[PromptBatch]:
        """All prompts of this rank, in order."""
        for start in range(0, len(self.positions), self.batch_size):
            positions = self.positions[start : start + self.batch_size]
            rows = [self.rows[i] for i in positions]
            yield PromptBatch(self.task, rows, positions, num_generations=self.num_generations)
