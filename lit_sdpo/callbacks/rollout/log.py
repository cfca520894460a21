"""What is told of rollouts: means over all ranks to the loggers, everything to the callbacks that look on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_sdpo.data.task import Task
from lit_sdpo.rollouts.generate import Generation
from lit_sdpo.rollouts.types import Rollouts

#: What is logged of each task besides.
PER_TASK = ("reward", "length", "truncated")


@runtime_checkable
class LooksAtRollouts(Protocol):
    """A callback that is shown everything that was sampled."""

    def on_rollouts(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        rollouts: Rollouts,
        *,
        task: str,
        split: str,
        stage: int,
        step: int,
    ) -> None:
        """Look; rollouts are those of one process."""


def call_on_rollouts(
    trainer: pl.Trainer, module: pl.LightningModule, rollouts: Rollouts, *, task: str, split: str, stage: int
) -> None:
    """Hand everything that was generated to the callbacks that look at it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LooksAtRollouts):
            callback.on_rollouts(
                trainer, module, rollouts, task=task, split=split, stage=stage, step=trainer.global_step
            )


def log_rollouts(
    trainer: pl.Trainer, module: pl.LightningModule, tasks: Sequence[Task], generation: Generation
) -> None:
    """Log means over the completions of all ranks, and those of each task; all ranks call it together.

    It takes one reduction.

    Args:
        trainer: Reduces.
        module: Logs.
        tasks: The stage's tasks; of those without a prompt in this window nothing is logged.
        generation: The completions of this rank.
    """
    ratios = rollout_ratios(generation, trainer.world_size)
    rollouts = generation.rollouts
    for name in [task.name for task in tasks]:
        own = ratios
        if len(tasks) > 1:
            of_task = rollouts.take([prompt for prompt, each in enumerate(rollouts.tasks) if each == name])
            own = _means(of_task)
        ratios |= {f"{name}/{key}": own[key] for key in PER_TASK}
    device = module.device
    pairs = [
        torch.stack([torch.as_tensor(x, dtype=torch.float32, device=device) for x in pair]) for pair in ratios.values()
    ]
    sums = trainer.strategy.reduce(torch.stack(pairs), reduce_op="sum")
    rows = dict(zip(ratios, sums[:, 1].tolist(), strict=True))
    for key, value in zip(ratios, sums[:, 0] / sums[:, 1], strict=True):
        if rows.get(f"{key.rpartition('/')[0]}/truncated", 1):
            name = key if key.startswith("time/") else f"rollout/{key}"
            module.log(name, value, on_step=True, on_epoch=False, batch_size=1)


def log_told(trainer: pl.Trainer, module: pl.LightningModule, metrics: Mapping[str, Sequence[float]]) -> None:
    """Log the mean of each number that rewards have named; all ranks call it together, whatever theirs have said."""
    for name, value in means_of_told(trainer, metrics).items():
        module.log(f"rollout/metric/{name}", value, on_step=True, on_epoch=False, batch_size=1)


def means_of_told(trainer: pl.Trainer, metrics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean over all ranks of each number that rewards have named on any of them; nan stays out of it."""
    own = {name: [value for value in values if value == value] for name, values in metrics.items()}
    parts: list[Any] = [own]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, own)
    names = sorted({name for part in parts for name in part})
    found = {name: [value for part in parts for value in part.get(name, ())] for name in names}
    return {name: sum(values) / len(values) if values else math.nan for name, values in found.items()}


def log_maximum(module: pl.LightningModule, name: str, value: Tensor) -> None:
    """Log a number of an evaluation: where all ranks hold the same, the maximum is exact; a time is the slowest's."""
    distributed = module.trainer.world_size > 1
    module.log(name, value, sync_dist=distributed, reduce_fx="max", batch_size=1, add_dataloader_idx=False)


def rollout_ratios(generation: Generation, world_size: int = 1) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """Numerator and denominator of each logged value on this rank; both add up over ranks."""
    rollouts, completions = generation.rollouts, generation.rollouts.completions
    tokens, rows = completions.lengths.sum(), len(rollouts)
    ratios: dict[str, tuple[Tensor | float, Tensor | float]] = {
        **_means(rollouts),
        "abstained": (rollouts.rewards.isnan().sum(), rows),
        "entropy": (-completions.logprobs[rollouts.completion_mask].sum(), tokens),
        "flat_groups": (rollouts.flat.sum(), len(rollouts.rows)),
        "tokens_per_second": (tokens, generation.sampling_seconds / world_size),
        "time/rollout": (generation.sampling_seconds, 1),
        "time/reward": (generation.reward_seconds, 1),
    }
    for name, values in generation.scores.components.items():
        ratios[f"reward/{name}"] = _known(values)
        if name != "verifier":
            ratios[f"failures/{name}"] = (generation.scores.failures[name], rows)
    return ratios


def _means(rollouts: Rollouts) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    completions, rows = rollouts.completions, len(rollouts)
    return {
        "reward": _known(rollouts.rewards),
        "length": (completions.lengths.sum(), rows),
        "truncated": ((~completions.finished).sum(), rows),
    }


def _known(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.nansum(), (~values.isnan()).sum()
