"""A progress bar that speaks of stages, tasks and optimizer steps."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_sdpo.data.base import stream_of
from lit_sdpo.heartbeat import Heartbeat, to_stdout
from lit_sdpo.lightning_names import check_trainer, under_both_names
from lit_sdpo.ranges import check_integer, check_number


class StreamProgressBar(TQDMProgressBar):
    """Show stage and task, optimizer step, reward, accuracy of the current task, and speed.

    On a terminal it is Lightning's bar, counting optimizer steps rather than batches: a batch is one of
    ``accumulate_grad_batches`` slots of a step. Elsewhere, as in the log of a batch job, it prints a line at the end of
    a stage and every ``seconds_between_lines`` in between: in training, in evaluations, and while a single step or
    anything else of a run takes longer than that.

    Numbers that nothing logs are left out, and the task's name needs a data module with ``stage_names``: the bar works
    in any Lightning project, under both names of Lightning.

    Args:
        refresh_rate: Optimizer steps between two refreshes of the bar; 0 shows nothing at all.
        seconds_between_lines: Time between two lines where there is no terminal.

    Raises:
        ValueError: If ``seconds_between_lines`` is negative.
    """

    def __init__(self, refresh_rate: int = 1, seconds_between_lines: float = 30.0) -> None:
        check_integer("refresh_rate", refresh_rate)
        check_number("seconds_between_lines", seconds_between_lines, at_least=0)
        super().__init__(refresh_rate=refresh_rate)
        under_both_names(StreamProgressBar, ProgressBar)
        self.seconds_between_lines = seconds_between_lines
        self._heartbeat = Heartbeat(seconds_between_lines, to_stdout)

    @property
    def draws(self) -> bool:
        """Whether there is a terminal to draw a bar on."""
        return self.is_enabled and sys.stdout.isatty()

    @override
    def init_sanity_tqdm(self) -> Tqdm:
        return super().init_sanity_tqdm() if self.draws else Tqdm(disable=True)

    @override
    def init_train_tqdm(self) -> Tqdm:
        return super().init_train_tqdm() if self.draws else Tqdm(disable=True)

    @override
    def init_validation_tqdm(self) -> Tqdm:
        return super().init_validation_tqdm() if self.draws else Tqdm(disable=True)

    @override
    def init_test_tqdm(self) -> Tqdm:
        return super().init_test_tqdm() if self.draws else Tqdm(disable=True)

    @override
    def init_predict_tqdm(self) -> Tqdm:
        return super().init_predict_tqdm() if self.draws else Tqdm(disable=True)

    @override
    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        if self.draws:
            super().print(*args, sep=sep, **kwargs)
        else:
            print(*args, sep=sep, **kwargs)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        check_trainer(trainer, self, ProgressBar)
        super().setup(trainer, pl_module, stage)
        if self.is_enabled and not self.draws and self.seconds_between_lines > 0:
            self._heartbeat.start(f"{TrainerFn(stage).value}: getting ready")

    @override
    def teardown(self, *arguments: Any, **options: Any) -> None:
        self._heartbeat.stop()

    @override
    def on_exception(self, *arguments: Any, **options: Any) -> None:
        self._heartbeat.stop()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self._heartbeat.now(f"{self.stage_text(trainer)}  step 1/{self._steps(trainer) or '?'} goes on")
        self.train_progress_bar.total = self._steps(trainer)
        self.train_progress_bar.set_description(self.stage_text(trainer))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        accumulate, steps = trainer.accumulate_grad_batches, self._steps(trainer)
        last = trainer.is_last_batch
        if self.is_disabled or not (last or (batch_idx + 1) % accumulate == 0):
            return
        step = math.ceil((batch_idx + 1) / accumulate)
        if not self.train_progress_bar.disable:
            if last or step % self.refresh_rate == 0:
                self.train_progress_bar.n = step
                self.train_progress_bar.set_postfix_str(self.numbers_text(trainer))
            return
        if last or self._heartbeat.due():
            self._heartbeat.printed()
            parts = [self.stage_text(trainer), f"step {step}/{steps or '?'}", self.numbers_text(trainer)]
            to_stdout("  ".join(part for part in parts if part))
        self._heartbeat.now(
            f"{self.stage_text(trainer)}  the end of the stage goes on"
            if last
            else f"{self.stage_text(trainer)}  step {step + 1}/{steps or '?'} goes on"
        )

    @override
    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self._heartbeat.now(self._evaluation_text(trainer, "validation", batch_idx, dataloader_idx))

    @override
    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self._heartbeat.now(self._evaluation_text(trainer, "test", batch_idx, dataloader_idx))

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self._train_progress_bar is not None and trainer.state.fn == "fit" and not self.train_progress_bar.disable:
            self.train_progress_bar.set_postfix_str(self.numbers_text(trainer))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.train_progress_bar.disable:
            self.train_progress_bar.set_postfix_str(self.numbers_text(trainer))

    def stage_text(self, trainer: pl.Trainer) -> str:
        """Which stage of how many, and its task: ``stage 2/4 science``."""
        total = trainer.max_epochs
        of = f"/{total}" if total is not None and total > 0 else ""
        task = self._task(trainer)
        return f"stage {trainer.current_epoch + 1}{of}" + (f" {task}" if task else "")

    def numbers_text(self, trainer: pl.Trainer) -> str:
        """What was logged last: ``reward 0.41  accuracy 0.38  tokens/s 1200``."""
        metrics = trainer.callback_metrics
        shown = {
            "reward": ("rollout/reward", ".2f"),
            "accuracy": (f"val/{self._task(trainer)}/accuracy", ".2f"),
            "tokens/s": ("rollout/tokens_per_second", ".0f"),
        }
        return "  ".join(
            f"{name} {float(metrics[key]):{form}}" for name, (key, form) in shown.items() if key in metrics
        )

    def _evaluation_text(self, trainer: pl.Trainer, kind: str, batch: int, loader: int) -> str:
        """Which batch of which task is evaluated: ``validation of science  batch 2/8``."""
        data = stream_of(trainer)
        evaluated = [*(task.name for task in data.evaluated), *(task.name for task in data.likelihood)]
        task = f" of {evaluated[loader]}" if loader < len(evaluated) else ""
        counts = trainer.num_test_batches if kind == "test" else trainer.num_val_batches
        return f"{kind}{task}  batch {batch + 1}/{counts[loader] if loader < len(counts) else '?'} goes on"

    def _task(self, trainer: pl.Trainer) -> str | None:
        names = stream_of(trainer).stage_names
        return names[trainer.current_epoch] if trainer.current_epoch < len(names) else None

    def _steps(self, trainer: pl.Trainer) -> int | None:
        """Optimizer steps of this stage; ``None`` for an endless loader."""
        batches = self.total_train_batches
        return math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None
