"""Where in its stream a run stands: whether it can be saved and stopped there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

from lit_sdpo.data.base import stream_of


def window_ended(trainer: pl.Trainer) -> bool:
    """Whether the latest batch is the last one of its rollouts: no slice or update is left of them."""
    step, rest = divmod(trainer.fit_loop.epoch_loop.batch_idx + 1, trainer.accumulate_grad_batches)
    updates = stream_of(trainer).updates_per_rollout
    return trainer.is_last_batch or (rest == 0 and step % updates == 0)


def inside_stage(trainer: pl.Trainer) -> bool:
    """Whether a run can go on from here inside its stage: the rollouts are used up, and the stage is not over."""
    return window_ended(trainer) and not trainer.is_last_batch and trainer.fit_loop.epoch_loop.batch_idx >= 0


def evaluation_due(trainer: pl.Trainer) -> bool:
    """Whether an evaluation belongs to this step; one that only a stop would bring does not."""
    loop = trainer.fit_loop
    stop, trainer.should_stop = trainer.should_stop, False
    try:
        return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
    finally:
        trainer.should_stop = stop


def stopping(trainer: pl.Trainer) -> bool:
    """Whether the run has been asked to stop, and will before the next batch."""
    return bool(trainer.should_stop and trainer.fit_loop._can_stop_early)


def where_stopped(trainer: pl.Trainer) -> str:
    """Where a run that is over has stopped, in words; empty if every stage that was asked for is complete."""
    loop, slots = trainer.fit_loop, trainer.accumulate_grad_batches
    progress, stages = loop.epoch_loop.batch_progress, trainer.max_epochs or 0
    epochs: Any = loop.epoch_progress.current
    if not trainer.is_last_batch and progress.current.ready:
        step, batches = progress.current.ready // slots, trainer.num_training_batches
        of = f" of its {int(batches) // slots}" if math.isfinite(batches) else ""
        return f"inside stage {trainer.current_epoch} of {stages}, after {step}{of} steps"
    done = trainer.current_epoch - (not trainer.is_last_batch and epochs.processed > 0)
    return f"after {done} of {stages} stages" if done < stages else ""


@contextmanager
def stage_reopened(trainer: pl.Trainer) -> Iterator[None]:
    """Lightning counts a stage that was stopped as done; in here it is not, as its checkpoint has to say."""
    progress = trainer.fit_loop.epoch_progress
    counters: list[Any] = [progress.current, progress.total]
    for counts in counters:
        counts.processed -= 1
    try:
        yield
    finally:
        for counts in counters:
            counts.processed += 1
