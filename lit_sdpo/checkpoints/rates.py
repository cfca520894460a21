"""Optimizers and schedules: what they were made with, and how new values take the place of restored ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer

from lit_sdpo.checkpoints.settings import CLASS, settings_of

#: Steps of a schedule that are written down; schedules keep functions to themselves, so what they do is what tells.
PROBED = tuple(2**n for n in range(11))


class Rates:
    """Optimizers and schedules as a run has made them, before anything is restored into them.

    A checkpoint restores learning rates, betas and the like together with the averages: values that were changed on
    purpose would be lost without a word.

    Args:
        trainer: With optimizers that have taken no step.

    Attributes:
        made: What they were made with, in plain values.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._options = [_options(optimizer) for optimizer in trainer.optimizers]
        self._schedules = [copy.deepcopy(c.scheduler.state_dict()) for c in trainer.lr_scheduler_configs]
        self.made: dict[str, Any] = {
            "optimizer": [_made(optimizer) for optimizer in trainer.optimizers],
            "schedule": [self._schedule(trainer, number) for number in range(len(self._schedules))],
        }
        self._set(trainer)
        self._steps: list[int] = []

    def make_room(self, checkpoint: dict[str, Any], saved: Any) -> None:
        """Leave out of a checkpoint what another class cannot take: it begins without averages.

        Args:
            checkpoint: What will be restored; it is changed.
            saved: What its optimizers and schedules were made with; ``None`` where it does not say.
        """
        self._steps = [state.get("last_epoch", 0) for state in checkpoint.get("lr_schedulers", ())]
        for name, states in (("optimizer", "optimizer_states"), ("schedule", "lr_schedulers")):
            before = self.made[name] if saved is None else saved[name]
            if [made[CLASS] for made in before] != [made[CLASS] for made in self.made[name]]:
                checkpoint[states] = []

    def take(self, trainer: pl.Trainer) -> None:
        """Let the values train that this run was made with, at the step that has been restored."""
        self._set(trainer)
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        here = progress.ready // trainer.accumulate_grad_batches  # of a schedule that is new
        for number, config in enumerate(trainer.lr_scheduler_configs):
            steps = self._steps[number] if number < len(self._steps) else here
            _wind(config.scheduler, steps)

    def _set(self, trainer: pl.Trainer) -> None:
        for optimizer, groups in zip(trainer.optimizers, self._options, strict=True):
            for group, options in zip(optimizer.param_groups, groups, strict=True):
                group.update(copy.deepcopy(options))
        for config, state in zip(trainer.lr_scheduler_configs, self._schedules, strict=True):
            config.scheduler.load_state_dict(copy.deepcopy(state))

    def _schedule(self, trainer: pl.Trainer, number: int) -> dict[str, Any]:
        """Class of a schedule, and the factors of the learning rate after so many steps."""
        config = trainer.lr_scheduler_configs[number]
        made: dict[str, Any] = {CLASS: _class(config.scheduler), "factors": {}}
        if config.reduce_on_plateau:
            return made
        taken = 0
        groups = config.scheduler.optimizer.param_groups
        for step in PROBED:
            try:
                _wind(config.scheduler, step - taken)
            except ValueError:  # it ends before
                break
            taken = step
            factors = [round(float(g["lr"]) / float(g.get("initial_lr", g["lr"]) or 1.0), 9) for g in groups]
            made["factors"][str(step)] = _one(factors)
        return made


def _made(optimizer: Optimizer) -> dict[str, Any]:
    """Class and options; an option that is the same in all groups counts once."""
    groups = _options(optimizer)
    for group in groups:
        group["lr"] = group.pop("initial_lr", group["lr"])
    options = {name: _one([_plain(group.get(name)) for group in groups]) for name in groups[0]} if groups else {}
    return {CLASS: _class(optimizer), **options}


def _options(optimizer: Optimizer) -> list[dict[str, Any]]:
    apart = ("params", "param_names")
    return [{name: copy.deepcopy(x) for name, x in g.items() if name not in apart} for g in optimizer.param_groups]


def _wind(scheduler: Any, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no step of the optimizer comes between
        for _ in range(steps):
            scheduler.step()


def _one(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else list(values)


def _class(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _plain(value: Any) -> Any:
    return settings_of(value.tolist() if hasattr(value, "tolist") else value)
