"""How far the weights have moved from where the run began, matrix by matrix."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_sdpo.callbacks import loggers
from lit_sdpo.callbacks.clock import StreamClock
from lit_sdpo.callbacks.weights.base import BaseWeights, folders_above
from lit_sdpo.callbacks.weights.trained import TrainedWeight, check_whole, trained_parameters, trained_weights
from lit_sdpo.files import write_atomically
from lit_sdpo.folders import run_folder
from lit_sdpo.functional import MatrixDrift, WeightChange, matrix_drift, merge_changes, weight_change
from lit_sdpo.ranges import check_integer, check_number
from lit_sdpo.report.drift import DriftRow, by_kind, drift_csv, drift_table

FILE = "parameter_drift_base.pt"


class ParameterDrift(pl.Callback):
    """Compare the trained weights with those at the start of the run, at the end of every stage (an epoch).

    Of every matrix :class:`~lit_sdpo.functional.matrix_drift.MatrixDrift`: relative norm, spectrum shift, principal
    angles, overlap and update of the principal mask, bfloat16-visible sparsity, stable rank of the change. Weights with
    more than two dimensions, such as those of convolutions, are matrices of their first dimension and the rest. On a
    low-rank adapter it is the merged weight, tied weights count once, and frozen ones, a teacher's copy among them, do
    not count.

    The means over the layers of each type of matrix (``q_proj``, ...) go to every logger as
    ``drift/parameters/<type>/<number>``, and ``drift/parameters/relative_norm`` and ``bf16_sparsity`` over all trained
    weights, vectors too. ``drift.csv`` in the run folder has every matrix, ``drift.md`` the last means with their 95 %
    intervals over the layers; loggers get them as a table.

    The weights of the start lie in ``parameter_drift_base.pt`` in the run folder, in the parameters' own precision, and
    are read from there one at a time; without a run folder they stay in memory. A checkpoint holds what was measured
    and where that file is; a resumed run needs it. Where one ``fit`` follows another, stages and steps count on, and
    the start is the first one's. Only the first process measures, the others wait. It reads weights
    and no random numbers, so a run is the same with it and without.

    Args:
        every_n_steps: Measure also after every so many optimizer steps; ``None`` only at the ends of stages.
        rank: Dimension of the leading subspaces: below 1 a share of the matrix's smaller side, else a number. The paper
            leaves it open.
        share: Share of entries in a principal mask. The paper leaves it open; 10 % fits its plots.
        threshold: Smallest change of an entry that counts in ``mask_update_absolute``.
        full_up_to: Largest smaller side of a matrix that is decomposed fully, in float64; larger ones are decomposed
            by a randomised range finder, and their spectrum shift is that of the leading singular values.
        base: File ``parameter_drift_base.pt`` of another run, to measure from where that one began.

    Raises:
        UserError: Parameters are sharded over processes, the file of the start is missing or belongs to another run, or
            an argument makes no sense.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ParameterDrift(rank=8)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        rank: float = 0.1,
        share: float = 0.1,
        threshold: float = 1e-5,
        full_up_to: int = 512,
        base: str | None = None,
    ) -> None:
        check_integer("every_n_steps", every_n_steps, at_least=1, optional=True)
        check_number("rank", rank, above=0)
        check_number("share", share, above=0, at_most=1)
        check_number("threshold", threshold, above=0)
        check_integer("full_up_to", full_up_to)
        self.every_n_steps = every_n_steps
        self.options: dict[str, Any] = {"rank": rank, "share": share, "threshold": threshold, "full_up_to": full_up_to}
        #: Everything measured so far.
        self.rows: list[DriftRow] = []
        self._base = BaseWeights(FILE, "ParameterDrift", base, remedy=", or give its path as base")
        self._folder: Path | None = None
        self._measured_step = 0
        self._clock = StreamClock()

    # ------------------------------------------------------------------------------------------------------ the start
    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        loggers.say_what_is_not_shown(trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.start(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._folder = run_folder(trainer)
        self._measured_step = self._clock.step(trainer)
        check_whole(pl_module)
        if not trainer.is_global_zero:
            return
        parameters = trained_parameters(pl_module)
        if self._base.path is None and self._base.token is None:
            if trainer.global_step > 0:
                rank_zero_warn(f"ParameterDrift is new to this run: it measures from step {trainer.global_step} on.")
            self._base.keep(parameters, self._folder)
        else:
            self._base.open(folders_above(trainer.ckpt_path), parameters)
        self._write()  # resumed, perhaps into a new folder

    # ---------------------------------------------------------------------------------------------------- measurements
    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.see(trainer)
        every, step = self.every_n_steps, self._clock.step(trainer)
        if every is not None and step % every == 0 and step > self._measured_step:
            self._measure(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_last_batch:  # stopped inside the stage
            return
        if self._clock.step(trainer) > self._measured_step:
            self._measure(trainer, pl_module)
        rows = self._last()
        if not rows or not trainer.is_global_zero:
            return
        loggers.log_table(trainer, "drift/parameters", drift_table(rows), self._clock.step(trainer))

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._measured_step = step = self._clock.step(trainer)
        if not trainer.is_global_zero:
            return
        total, rows = measure(module, self._base.weights.__getitem__, **self.options)
        self.rows += [replace(row, step=step, stage=self._clock.stage(trainer) + 1) for row in rows]
        numbers = {
            f"{kind}/{field}": mean
            for kind, fields in by_kind(rows).items()
            for field, (mean, _, _) in fields.items()
            if math.isfinite(mean)
        }
        numbers |= {"relative_norm": float(total.relative_l2), "bf16_sparsity": float(total.bf16_sparsity)}
        loggers.log_numbers(trainer, {f"drift/parameters/{name}": x for name, x in numbers.items()}, step)
        self._write()

    def _last(self) -> list[DriftRow]:
        return [row for row in self.rows if row.step == self.rows[-1].step]

    def _write(self) -> None:
        if self._folder is not None and self.rows:
            write_atomically(self._folder / "drift.csv", drift_csv(self.rows))
            write_atomically(self._folder / "drift.md", drift_table(self._last()).markdown() + "\n")

    # ---------------------------------------------------------------------------------------------------------- resume
    @override
    def state_dict(self) -> dict[str, Any]:
        names = {row.name: (row.kind, row.layer) for row in self.rows}
        order = {name: i for i, name in enumerate(names)}
        return {
            "clock": self._clock.state_dict(),
            "base": self._base.path,
            "token": self._base.token,
            "names": [(name, *rest) for name, rest in names.items()],
            "times": torch.tensor([(row.step, row.stage, order[row.name]) for row in self.rows]),
            "values": torch.tensor([row.drift for row in self.rows], dtype=torch.float64),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock.load_state_dict(state_dict.get("clock"))
        # A file that was asked for on resuming goes before the one of the checkpoint.
        if self._base.path is None:
            self._base.path, self._base.token = state_dict["base"], state_dict["token"]
        times, values = state_dict["times"].tolist(), state_dict["values"].tolist()
        self.rows = []
        for (step, stage, number), numbers in zip(times, values, strict=True):
            name, kind, layer = state_dict["names"][number]
            if len(numbers) == len(MatrixDrift._fields) - 1:  # older checkpoints have no mask_update of bfloat16 copies
                numbers.insert(MatrixDrift._fields.index("mask_update"), math.nan)
            self.rows.append(DriftRow(step, stage, name, kind, layer, MatrixDrift(*numbers)))


def measure(
    module: torch.nn.Module,
    before: Callable[[str], Tensor],
    watch: Callable[[TrainedWeight, float], None] = lambda weight, seconds: None,
    **options: Any,
) -> tuple[WeightChange, list[DriftRow]]:
    """Measure all trained weights of a module, one at a time.

    Args:
        module: Any module.
        before: Gives the trained parameter of a name as it was.
        watch: Is told the seconds that each weight took.
        options: Of :func:`~lit_sdpo.functional.matrix_drift.matrix_drift`.

    Returns:
        The change of all weights together, and a row per matrix (of step and stage 0).
    """
    now = trained_parameters(module)
    changes, rows = [], []
    with torch.no_grad():
        for weight in trained_weights(module):
            start = time.perf_counter()
            device = now[weight.sources[0]].device
            old = weight.value(lambda name, device=device: before(name).to(device))  # type: ignore[misc]
            new = weight.value(lambda name: now[name].detach())
            changes.append(weight_change([old], [new]))
            if new.dim() > 1:
                drift = matrix_drift(old.flatten(1), new.flatten(1), **options)
                rows.append(DriftRow(0, 0, weight.name, weight.kind, weight.layer, drift))
            watch(weight, time.perf_counter() - start)
    return merge_changes(changes), rows
