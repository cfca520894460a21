"""What every stage did to every task: the retention matrix."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lit_sdpo.callbacks.folder import run_folder, write_atomically
from lit_sdpo.errors import UserError
from lit_sdpo.report.figures import heat_map
from lit_sdpo.report.summary import summarize
from lit_sdpo.report.tables import Matrix, MatrixRow, show


class ForgettingMatrix(pl.Callback):
    """Keep the score on every task after every stage, and say what was learned and what was lost.

    A stage is one epoch. Row 0 is an evaluation before the first step (see
    :class:`~lit_sdpo.callbacks.evaluation.InitialEvaluation`), row k the last evaluation at the end of stage k.
    Evaluations inside a stage are not rows. After each row the scalars ``continual/...`` of
    :func:`~lit_sdpo.report.summary.summarize` go to every logger, at the optimizer step; undefined ones are left out.
    TensorBoard also gets the matrix as a picture and as text. ``matrix.json`` and ``matrix.csv`` in the run folder hold
    the whole matrix, ``items.jsonl`` the score of each item where another callback has an attribute ``item_scores``
    (task to item id to score). The end of ``fit`` prints the matrix.

    It asks a module for nothing but logged metrics. A metric that an evaluation did not log is nan in its row, never
    the value of an earlier one.

    Args:
        metric: Name of the logged metric, with ``{task}`` where the task's name stands.
        tasks: The tasks of the stream. Default: ``task_names`` of the data module, else all that match ``metric``.
        probes: Tasks that are only evaluated. Default: ``probe_names`` of the data module, else none.
        stages: The task each stage trains on; may repeat. Default: ``stage_names`` of the data module, else ``tasks``
            where there is one epoch per task. BWT, FWT and forgetting are undefined without it.

    Raises:
        UserError: If ``metric`` has no ``{task}``.

    Example:
        >>> matrix = ForgettingMatrix(metric="accuracy_{task}", tasks=["cats", "dogs"], stages=["cats", "dogs", "cats"])
        >>> matrix.matrix.tasks
        ['cats', 'dogs']
    """

    def __init__(
        self,
        metric: str = "val/{task}/accuracy",
        tasks: list[str] | None = None,
        probes: list[str] | None = None,
        stages: list[str] | None = None,
    ) -> None:
        if metric.count("{task}") != 1:
            fix = "name the logged metric with {task} once, such as val/{task}/accuracy"
            raise UserError(f"no single {{task}} in '{metric}'", where="ForgettingMatrix.metric", fix=fix)
        self.metric = metric
        self.tasks, self.probes, self.stages = tasks, probes, stages
        self._found: list[str] = []
        self._rows: dict[int, MatrixRow] = {}
        self._items: dict[int, dict[str, dict[str, float]]] = {}
        self._before: dict[str, Any] = {}
        self._folder: Path | None = None

    @property
    def matrix(self) -> Matrix:
        """The matrix so far. A stage that was not evaluated has a row without scores."""
        probes = self.probes or []
        tasks = self._found if self.tasks is None else self.tasks
        stages = range(max(self._rows) + 1) if self._rows else range(0)
        rows = [self._rows.get(k) or MatrixRow(k, self._label(k), None) for k in stages]
        return Matrix([t for t in tasks if t not in probes], probes, rows)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        self.tasks = _names(self.tasks, data, "task_names")
        self.probes = _names(self.probes, data, "probe_names")
        self.stages = _names(self.stages, data, "stage_names")
        if self.stages is None and self.tasks is not None and trainer.max_epochs == len(self.tasks):
            self.stages = self.tasks
        self._folder = run_folder(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._rows:  # resumed, perhaps into a new folder
            self._write(trainer)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before = dict(trainer.callback_metrics)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, self._before = self._before, {}
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.is_last_batch:
            stage = trainer.current_epoch + 1
        elif trainer.global_step == 0:
            stage = 0
        else:
            return
        # Lightning keeps old values in callback_metrics: only an object that is new was logged by this evaluation.
        logged = {name: x for name, x in trainer.callback_metrics.items() if x is not before.get(name)}
        scores = self._scores(logged)
        if not scores:
            rank_zero_warn(f"ForgettingMatrix: no metric '{self.metric}' among the logged ones: {sorted(logged)}.")
            return
        self._found += [t for t in scores if t not in self._found]
        self._rows[stage] = MatrixRow(stage, self._label(stage), trainer.global_step, scores)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        items: dict[str, Any] = next((c.item_scores for c in callbacks if hasattr(c, "item_scores")), {})
        self._items[stage] = {t: {str(i): float(x) for i, x in items[t].items()} for t in items}
        self._log(trainer)
        self._write(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self._rows:
            show(self.matrix, summarize(self.matrix))

    @override
    def state_dict(self) -> dict[str, Any]:
        rows = [
            {"stage": k, "label": r.label, "step": r.step, "scores": dict(r.scores), "items": self._items.get(k, {})}
            for k, r in self._rows.items()
        ]
        return {"found": list(self._found), "rows": rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._found = list(state_dict["found"])
        rows = state_dict["rows"]
        self._rows = {r["stage"]: MatrixRow(r["stage"], r["label"], r["step"], dict(r["scores"])) for r in rows}
        self._items = {r["stage"]: r["items"] for r in rows}

    def _label(self, stage: int) -> str:
        if stage == 0:
            return "base"
        return self.stages[stage - 1] if self.stages and stage <= len(self.stages) else "stage"

    def _scores(self, logged: dict[str, Any]) -> dict[str, float]:
        prefix, suffix = self.metric.split("{task}")
        pattern = re.compile(re.escape(prefix) + "(.+)" + re.escape(suffix))
        found = {match[1]: float(x) for name, x in logged.items() if (match := pattern.fullmatch(name))}
        if self.tasks is None:
            return found
        return {name: found[name] for name in [*self.tasks, *(self.probes or [])] if name in found}

    def _log(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        matrix, step = self.matrix, trainer.global_step
        numbers = {f"continual/{name}": x for name, x in summarize(matrix).items() if math.isfinite(x)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=step)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("continual/matrix", heat_map(matrix, title=self.metric), step)
                logger.experiment.add_text("continual/matrix", matrix.markdown(), step)

    def _write(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or self._folder is None:
            return
        matrix = self.matrix
        content = {
            "metric": self.metric,
            "tasks": matrix.tasks,
            "probes": matrix.probes,
            "rows": [
                {
                    "stage": row.stage,
                    "label": row.label,
                    "step": row.step,
                    "scores": {c: _plain(matrix.score(i, c)) for c in matrix.columns},
                }
                for i, row in enumerate(matrix.rows)
            ],
            "summary": {name: _plain(x) for name, x in summarize(matrix).items()},
        }
        write_atomically(self._folder / "matrix.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        write_atomically(self._folder / "matrix.csv", matrix.csv())
        lines = [
            {"stage": stage, "task": task, "scores": {i: _plain(x) for i, x in scores.items()}}
            for stage, tasks in sorted(self._items.items())
            for task, scores in tasks.items()
        ]
        if lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomically(self._folder / "items.jsonl", text)


def _names(given: list[str] | None, data: object, attribute: str) -> list[str] | None:
    names = getattr(data, attribute, None) if given is None else given
    return None if names is None else [str(name) for name in names]


def _plain(x: float) -> float | None:
    """JSON has no nan."""
    return x if math.isfinite(x) else None
