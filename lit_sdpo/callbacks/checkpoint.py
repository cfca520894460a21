"""Checkpoints at stage ends and, where asked for, in between; each one to go on from bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lit_sdpo.callbacks import curves
from lit_sdpo.callbacks.clock import StreamClock
from lit_sdpo.checkpoints.divided import guard
from lit_sdpo.checkpoints.manifest import FOLDER, in_order
from lit_sdpo.checkpoints.position import (
    evaluation_due,
    inside_stage,
    stage_reopened,
    stopping,
    where_stopped,
    window_ended,
)
from lit_sdpo.checkpoints.resuming import Resuming
from lit_sdpo.checkpoints.schema import KEY
from lit_sdpo.checkpoints.signals import Signals
from lit_sdpo.checkpoints.writing import probe, remove_leftovers, tensor_bytes
from lit_sdpo.errors import UserError
from lit_sdpo.folders import run_folder
from lit_sdpo.lightning_names import both, check_trainer, under_both_names
from lit_sdpo.ranges import check_integer


class StageCheckpoint(Checkpoint):
    """Saves ``checkpoints/stage=<i>-step=<n>.ckpt`` at each stage's end, after its evaluation.

    With ``every_n_steps`` it also saves ``checkpoints/step=<n>.ckpt`` inside a stage: after an optimizer step, after
    the evaluation that may follow it, and never while rollouts are still to be used. A run that goes on from any of
    them ends with the same weights, optimizer, random state, metrics and files as one that was not interrupted.

    Where one ``fit`` follows another under the same callback, stages and steps in the names count on.

    A run that is stopped inside a stage (``trainer.should_stop``: ``max_time``, ``EarlyStopping``, any other callback)
    saves there too. Inside a window the stop waits for the window's end; no evaluation is added.

    Where ``ModelParallelStrategy`` saves a folder with a part of each process, it is written beside its place, compared
    and moved as a file is, with a manifest of its own.

    Beside what Lightning saves, a checkpoint holds the random state of every process and what the run was made of,
    with a fingerprint of the weights that it began with.
    Before the first step the folder is tried, and leftovers of killed saves are removed.

    Args:
        keep: How many stage ends to keep, the latest ones; -1 keeps all.
        every_n_steps: Optimizer steps between checkpoints inside a stage; ``None`` saves at stage ends only.
        keep_steps: How many checkpoints inside stages to keep, the latest ones.
        on_save_error: What happens when a checkpoint cannot be written: the run stops with an error, or goes on with a
            warning.
        on_mismatch: What happens when the run that wrote a checkpoint differs in anything that decides training, in its
            base weights, tasks or data: an error that names both sides, or a warning, and the new values train.
        signals: Answer signals while training. SIGTERM or SIGINT: finish the step, save, leave with 143 or 130; a
            second time: leave now. SIGUSR1: save and go on.
        may_change: Keys of the configuration that may differ, such as ``model.optimizer.init_args.lr``; their new
            values train. Keys below them are meant too. Runs without a configuration are compared by what their objects
            were made with; the error names the keys.

    Raises:
        UserError: The folder cannot be written to, or the checkpoint does not fit this run.
        FloatingPointError: The weights are no longer finite when a checkpoint is due.
    """

    def __init__(
        self,
        keep: int = -1,
        every_n_steps: int | None = None,
        keep_steps: int = 2,
        on_save_error: Literal["stop", "continue"] = "stop",
        on_mismatch: Literal["error", "warn"] = "error",
        signals: bool = False,
        may_change: Sequence[str] = (),
    ) -> None:
        check_integer("keep", keep, at_least=1, or_minus_one=True)
        check_integer("every_n_steps", every_n_steps, at_least=1, optional=True)
        check_integer("keep_steps", keep_steps, at_least=1)
        self.keep, self.every_n_steps, self.keep_steps = keep, every_n_steps, keep_steps
        self.on_save_error = on_save_error
        self.resuming = Resuming(on_mismatch, may_change)
        under_both_names(StageCheckpoint, Checkpoint)
        self.signals = Signals() if signals else None
        self._folder: Path | None = None
        self._due = self._leave = self._stop = False
        self._saved: Path | None = None
        self._curves: dict[str, Any] | None = None
        self._answered = 0
        self._began = False
        self._resumed_at: int | None = None
        self._clock = StreamClock()

    # ------------------------------------------------------------------------------------------------- before the run
    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        check_trainer(trainer, self, Checkpoint)
        self._resumed_at = None
        self._due = self._leave = self._stop = self._began = False
        self._saved = self._curves = None
        guard(trainer.strategy)
        self.resuming.reset()
        if stage == TrainerFn.FITTING:
            self.resuming.watch_base(trainer, pl_module)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.start(trainer)
        self.resuming.begin(trainer, pl_module)
        folder = run_folder(trainer)
        self._folder = None if folder is None else folder / FOLDER
        if self._folder is None or not trainer.is_global_zero:
            return
        try:
            probe(self._folder, tensor_bytes(pl_module.state_dict()))
        except UserError as error:
            if self.on_save_error == "stop":
                raise
            rank_zero_warn(str(error))
        else:
            for place in (self._folder.parent, self._folder):
                remove_leftovers(place)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._resumed_at = None
        self._began = True
        self.resuming.take_over(trainer)
        saved, self._curves = self._curves, None
        curves.go_on(trainer, saved)
        if self.signals is not None:
            # Until here Lightning's handler answered, which would end the run inside a step, without a checkpoint.
            self.signals.listen(terminated=trainer.received_sigterm)
            trainer._signal_connector.received_sigterm = False
            self._answered = 0

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stopped = where_stopped(trainer)
        if self._began:
            if stopped:
                saved = f"{self._saved} is the newest checkpoint" if self._saved else "nothing was saved"
                rank_zero_info(f"The run was stopped {stopped}; {saved}. ckpt_path: last trains the rest.")
        elif self._resumed_at is not None and not stopped:
            rank_zero_info(
                f"Nothing left to train: all {trainer.max_epochs} stages were complete at step {self._resumed_at}."
            )
        elif trainer.should_stop:
            raise _stopped_before_the_first_step(trainer)

    # --------------------------------------------------------------------------------------------------------- saving
    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.see(trainer)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._due |= self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        self._stop_in_time(trainer)
        if not inside_stage(trainer):
            return  # the stage's end saves, or rollouts are still to be used
        self._listen(trainer)
        if evaluation_due(trainer):
            return  # saved after it
        if stopping(trainer):
            self._due = True
            # Lightning would evaluate because of the stop, which an uninterrupted run does not.
            trainer.fit_loop.epoch_loop._skip_next_val = True
        if self._due:
            self._save_step(trainer)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not trainer.global_step:
            return
        self._stop_in_time(trainer)
        if inside_stage(trainer) and (self._due or stopping(trainer)):
            self._save_step(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_last_batch:
            self._end_inside(trainer)
            return
        self._listen(trainer)
        self._save(trainer, f"stage={self._clock.stage(trainer)}-step={self._clock.step(trainer)}.ckpt")
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._leave_if_asked(trainer)

    def _stop_in_time(self, trainer: pl.Trainer) -> None:
        """Let a stop that was asked for inside a window wait for the window's end, as nothing can go on from there."""
        self._stop |= trainer.should_stop
        if not window_ended(trainer):
            trainer.should_stop &= not trainer.fit_loop._can_stop_early
            return
        if trainer.world_size > 1:
            self._stop = trainer.strategy.reduce_boolean_decision(self._stop, all=False)
        trainer.should_stop, self._stop = self._stop, False

    def _end_inside(self, trainer: pl.Trainer) -> None:
        """The stage ends before its last step; usually that is saved by now, unless the stop came after the hooks."""
        if inside_stage(trainer) and (self._saved is None or self._saved.name != self._step_name(trainer)):
            with stage_reopened(trainer):
                self._save_step(trainer)

    def _listen(self, trainer: pl.Trainer) -> None:
        """Find out whether any process was sent a signal; all of them have to ask."""
        if self.signals is None:
            return
        ending, notice = bool(self.signals.ending), self.signals.notices > self._answered
        self._answered = self.signals.notices
        if trainer.world_size > 1:
            ending, notice = (trainer.strategy.reduce_boolean_decision(x, all=False) for x in (ending, notice))
        if ending and not self.signals.ending and not self._leave:
            rank_zero_info("Another process of the run was told to end: the run saves and ends.")
        self._leave = ending
        self._due |= ending or notice

    def _save_step(self, trainer: pl.Trainer) -> None:
        self._save(trainer, self._step_name(trainer))
        self._leave_if_asked(trainer)

    def _step_name(self, trainer: pl.Trainer) -> str:
        return f"step={self._clock.step(trainer)}.ckpt"

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        self._due = False
        if self._folder is None:
            return
        if not _finite(trainer):
            raise FloatingPointError(
                f"the weights are no longer finite at step {trainer.global_step}: they are not saved, the checkpoint"
                " before stays the newest"
            )
        try:
            trainer.save_checkpoint(self._folder / name, weights_only=False)
        except UserError as error:
            if self.on_save_error == "stop":
                raise
            rank_zero_warn(str(error))
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other processes wait
            return
        self._saved = self._folder / name
        if trainer.is_global_zero:
            self._remove_old(trainer, self._folder)

    def _remove_old(self, trainer: pl.Trainer, folder: Path) -> None:
        for pattern, keep in (("stage=*-step=*.ckpt", self.keep), ("step=*.ckpt", self.keep_steps)):
            written = [path for path in in_order(folder) if path.match(pattern)]
            for path in written[keep:] if keep != -1 else ():
                trainer.strategy.remove_checkpoint(path)

    def _leave_if_asked(self, trainer: pl.Trainer) -> None:
        """Lightning ends the loop by itself once the step's values have been logged."""
        if self._leave:
            trainer._signal_connector.received_sigterm = True

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not self._began and isinstance(exception, (KeyboardInterrupt, *both(SIGTERMException))):
            rank_zero_info("Ended before a step was taken: there is nothing to save, the same command starts it again.")
        if self._leave and isinstance(launcher := trainer.strategy.launcher, both(_SubprocessScriptLauncher)):
            # The other processes leave too. Lightning would take that for a failure and kill this one.
            launcher.procs.clear()  # type: ignore[union-attr]
        if self.signals is None:
            return
        if self.signals.ending:
            self.signals.leave()
        else:
            self.signals.stop_listening()
        if isinstance(exception, SystemExit) and exception.code is None:
            exception.code = self.signals.exit_code

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.signals is not None:
            self.signals.stop_listening()

    # -------------------------------------------------------------------------------------------------------- contents
    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        curves.flush(trainer)
        found = {"curves": curves.entry(trainer), "clock": self._clock.state_dict()}
        checkpoint[KEY] = {**self.resuming.entry(trainer, pl_module), **found}

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._resumed_at = checkpoint["global_step"]
            entry = checkpoint.get(KEY, {})
            self._curves = entry.get("curves")
            self._clock.load_state_dict(entry.get("clock"))
            self.resuming.compare(trainer, pl_module, checkpoint)


def _stopped_before_the_first_step(trainer: pl.Trainer) -> UserError:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for timer in callbacks:
        if isinstance(timer, both(Timer)) and (left := timer.time_remaining()) is not None and left <= 0:
            used = f"{timer.time_elapsed():.0f} s are used, those before the checkpoint included"
            return UserError(
                f"the time is over before the first step: {used}",
                where="trainer.max_time",
                fix="give more time in all, or leave it out",
            )
    return UserError(
        "the run was told to stop before its first step: nothing was trained",
        where="trainer.callbacks",
        fix="leave out the callback that stops it",
    )


def _finite(trainer: pl.Trainer) -> bool:
    """Whether all weights are numbers, on every process."""
    parts = [getattr(weight, "to_local", lambda w=weight: w)() for weight in trainer.lightning_module.parameters()]
    finite = bool(torch.stack([part.detach().isfinite().all() for part in parts]).all()) if parts else True
    return trainer.strategy.reduce_boolean_decision(finite) if trainer.world_size > 1 else finite
