"""Rollouts of the next window, asked for while the update of this one runs: one window staler, and no waiting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_sdpo.rollouts.engines.base import Ahead, Call, Completions, RolloutEngine


class Drawn(RolloutEngine):
    """A rollout engine whose answer is there already.

    Args:
        completions: The answer.
        call: The arguments that it answers; others are an error of this package.
    """

    def __init__(self, completions: Completions, call: Call) -> None:
        self.completions, self.call = completions, call

    def generate(self, policy: Any, prompts: Sequence[Sequence[int]], *, seeds: Tensor, **rest: Any) -> Completions:
        """The completions that were asked for."""
        if prompts != self.call["prompts"] or not torch.equal(seeds, self.call["seeds"]):
            raise RuntimeError("the completions that were asked for ahead belong to other prompts")
        return self.completions


@dataclass(frozen=True)
class Collected:
    """What was asked ahead and is there.

    Attributes:
        engines: One for each call, in the order in which they were asked.
        asked_at: Optimizer steps that the weights had taken that drew the completions.
        seconds: Time that the completions took.
        waited: Time of it that training stood still.
    """

    engines: list[RolloutEngine]
    asked_at: int
    seconds: float
    waited: float


class Overlap:
    """Asks an engine ahead, for one window at a time.

    Args:
        engine: One that can be asked ahead.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self._pending: Ahead | None = None
        self._calls: Sequence[Call] = ()
        self._asked_at = 0

    def ask(self, policy: Any, calls: Sequence[Call], step: int) -> None:
        """Ask with the weights of now, which have taken ``step`` optimizer steps; all processes ask together."""
        self._pending, self._calls, self._asked_at = self.engine.ahead(policy, calls), calls, step

    def collect(self) -> Collected | None:
        """Wait for what was asked; ``None`` where nothing was.

        Raises:
            UserError: The engine failed meanwhile.
        """
        if self._pending is None:
            return None
        began = time.perf_counter()
        pending = self._pending
        completions = pending.wait()
        self._pending = None  # and not before: a wait that is interrupted leaves something to drop
        waited = time.perf_counter() - began
        engines: list[RolloutEngine] = [Drawn(some, call) for some, call in zip(completions, self._calls, strict=True)]
        return Collected(engines, self._asked_at, pending.seconds, waited)

    @staticmethod
    def log(trainer: pl.Trainer, module: pl.LightningModule, collected: Collected | None) -> None:
        """Log how old the weights were that drew this window's completions, and what was waited for them."""
        stale = 0 if collected is None else trainer.global_step - collected.asked_at
        module.log("rollout/staleness", float(stale), on_step=True, on_epoch=False, batch_size=1)
        if collected is not None:
            module.log("time/rollout_wait", collected.waited, on_step=True, on_epoch=False, batch_size=1)

    def drop(self) -> None:
        """Nobody will collect: end the requests and their thread."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.drop()
