"""Stages and optimizer steps that count on where one ``fit`` follows another."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lit_sdpo.errors import UserError


class StreamClock:
    """Where a callback is in the stream, over one ``fit`` or several.

    Lightning's counts belong to a Trainer. Where each task has a Trainer of its own and the same callbacks, they begin
    again at 0, and what is kept by stage or step would overwrite itself. A ``fit`` that begins at the beginning, of a
    callback that has seen steps already, goes on where those ended; one that resumes goes on where its checkpoint was.

    Attributes:
        stages_before: Stages (epochs) of earlier fits.
        steps_before: Their optimizer steps.
    """

    def __init__(self) -> None:
        self.stages_before = self.steps_before = 0
        self._begun = self._taken = 0  # epochs and steps of the latest fit

    def start(self, trainer: pl.Trainer) -> None:
        """Begin a ``fit``; for ``on_fit_start``."""
        if trainer.ckpt_path is None and trainer.global_step < self._taken:
            self.stages_before += self._begun
            self.steps_before += self._taken
            self._begun = self._taken = 0

    def see(self, trainer: pl.Trainer) -> None:
        """Take a step's end into account; for ``on_train_batch_end``.

        Raises:
            UserError: The Trainer goes on from a step that lies before what the callback has seen.
        """
        if trainer.global_step < self._taken:
            raise UserError(
                f"the run goes on from step {trainer.global_step - 1}, and a callback holds what was measured up to"
                f" step {self._taken}, as the checkpoint has no state of it",
                where="Trainer(callbacks=...)",
                fix="give this run callbacks of its own",
            )
        self._begun, self._taken = trainer.current_epoch + 1, trainer.global_step

    def stage(self, trainer: pl.Trainer) -> int:
        """Index of the stage in training, from 0, over all fits."""
        return self.stages_before + trainer.current_epoch

    def step(self, trainer: pl.Trainer) -> int:
        """Optimizer steps taken, over all fits."""
        return self.steps_before + trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Its counts."""
        return {"before": [self.stages_before, self.steps_before], "latest": [self._begun, self._taken]}

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        """The counts of a checkpoint; of an older release's they are 0 for what came before."""
        state = state_dict or {"before": [0, 0], "latest": [0, 0]}
        (self.stages_before, self.steps_before), (self._begun, self._taken) = state["before"], state["latest"]
