"""What every stage did to every task: the retention matrix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lit_sdpo.callbacks import loggers
from lit_sdpo.callbacks.clock import StreamClock
from lit_sdpo.data.base import stream_of
from lit_sdpo.errors import UserError
from lit_sdpo.files import write_atomically
from lit_sdpo.folders import run_folder
from lit_sdpo.functional import Mode
from lit_sdpo.ranges import check_integer
from lit_sdpo.report.evaluations import FILE, Evaluation, evaluation_lines
from lit_sdpo.report.figures import accuracy_by_stage, heat_map
from lit_sdpo.report.items import (
    Detectable,
    change_records,
    compact,
    detectable,
    detectable_at,
    known,
    means,
    plain,
    records_csv,
    score_records,
)
from lit_sdpo.report.summary import summarize, summary_intervals, undefined
from lit_sdpo.report.tables import Matrix, MatrixRow, show, summary_markdown

#: Arguments that name tasks, where a data module may do so instead.
NAMES = ("tasks", "probes", "stages", "losses")

if TYPE_CHECKING:
    from lit_sdpo.data.task import Task


class ForgettingMatrix(pl.Callback):
    """Keep the score on every task after every stage, and say what was learned and what was lost.

    A stage is one epoch. Where each task has a ``fit`` of its own under the same callback, its epochs are the next
    stages, and steps count on: row 0 is an evaluation before the first step (see
    :class:`~lit_sdpo.callbacks.initial_evaluation.InitialEvaluation`), row k the last evaluation at the end of stage k.
    Evaluations inside a stage are not rows: they go to ``curves.jsonl``, for the measures of
    :mod:`lit_sdpo.functional.continual_curves`. After each row the scalars ``continual/...`` of
    :func:`~lit_sdpo.report.summary.summarize` go to every logger, at the optimizer step; undefined ones are left out.
    Loggers that show more also get the matrix as a picture and as a table, and a picture of the scores by stage. The
    end of ``fit`` prints the matrix.

    Scores of single prompts give more: intervals, pass@k, what was lost and won. They come from all other callbacks
    with an attribute ``item_scores``: task to prompt's id to its score, or to the list of its samples' scores. Of these
    tasks the loggers also get ``tasks/<task>/low``, ``high``, ``pass@<k>``, ``lost`` and ``won``.

    Files in the run folder: ``matrix.json`` (matrix, summary with intervals, reasons of what is undefined) and
    ``matrix.csv``, ``matrix.md`` to read, ``tasks.csv`` (:func:`~lit_sdpo.report.items.score_records`) and, with scores
    of prompts, ``changes.csv`` (:func:`~lit_sdpo.report.items.change_records`) and ``items.jsonl``.

    Before the first step it prints the smallest change of every task's score that the evaluation can detect: from the
    scores of prompts in row 0, else from the size of validation loaders that have a ``task``, ``rows`` and
    ``num_generations``.

    It asks a module for nothing but logged metrics. A metric that an evaluation did not log is nan in its row, never
    the value of an earlier one.

    Args:
        metric: Name of the logged metric, with ``{task}`` where the task's name stands.
        tasks: The tasks of the stream. Default: ``task_names`` of the data modules, else all that match ``metric``.
        probes: Tasks that are only evaluated. Default: ``probe_names`` of the data module, else none.
        stages: The task each stage trains on, over all fits; may repeat. Default: ``stage_names`` of the data modules,
            else ``tasks`` where there is one epoch per task. BWT, FWT and forgetting are undefined without it.
        choices: Options per question of multiple-choice tasks, by task: corrects what was lost and won for guessing.
        mode: ``"min"`` where ``metric`` is a loss: less of it is better, and a rise is forgetting.
        losses: Tasks whose score is a loss that is logged as ``loss_metric``, beside others whose score is ``metric``.
            Default: ``loss_names`` of the data module, else none.
        loss_metric: Name of the logged metric of ``losses``, with ``{task}`` where the task's name stands.

    Raises:
        UserError: If a metric has no ``{task}``, there is no such mode, or a question has fewer than 2 options.

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
        choices: dict[str, int] | None = None,
        mode: Mode = "max",
        losses: list[str] | None = None,
        loss_metric: str = "val/{task}/loss",
    ) -> None:
        for where, name in (("metric", metric), ("loss_metric", loss_metric)):
            if name.count("{task}") != 1:
                fix = "name the logged metric with {task} once, such as val/{task}/accuracy"
                raise UserError(f"no single {{task}} in '{name}'", where=f"ForgettingMatrix.{where}", fix=fix)
        if mode not in get_args(Mode):
            raise UserError(f"there is no mode {mode!r}", where="ForgettingMatrix.mode", fix="use max or min")
        for task, number in (choices or {}).items():
            check_integer(f"choices of {task}", number, at_least=2)
        self.metric, self.mode, self.losses, self.loss_metric = metric, mode, losses, loss_metric
        self.tasks, self.probes, self.stages = tasks, probes, stages
        self.choices = choices or {}
        self._given = {name for name, x in zip(NAMES, (tasks, probes, stages, losses), strict=True) if x is not None}
        self._clock = StreamClock()
        self._found: list[str] = []
        self._rows: dict[int, MatrixRow] = {}
        self._items: dict[int, dict[str, dict[str, list[float]]]] = {}
        self._inside: dict[int, Evaluation] = {}
        self._detectable: dict[str, Detectable] = {}
        self._before: dict[str, Any] = {}
        self._folder: Path | None = None

    @property
    def matrix(self) -> Matrix:
        """The matrix so far. A stage that was not evaluated has a row without scores."""
        probes = self.probes or []
        tasks = self._found if self.tasks is None else self.tasks
        stages = range(max(self._rows) + 1) if self._rows else range(0)
        rows = [self._rows.get(k) or MatrixRow(k, self._label(k), None) for k in stages]
        trained = [t for t in tasks if t not in probes]
        losses = [*trained, *probes] if self.mode == "min" else [t for t in (*trained, *probes) if t in self._losses]
        return Matrix(trained, probes, rows, losses)

    @property
    def _losses(self) -> list[str]:
        return self.losses or []

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        loggers.say_what_is_not_shown(trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.start(trainer)
        data, before = stream_of(trainer), self._clock.stages_before
        self.tasks = self._names("tasks", self.tasks, data.task_names or None)
        self.probes = self._names("probes", self.probes, data.probe_names or None)
        self.losses = self._names("losses", self.losses, data.loss_names or None)
        if "stages" not in self._given and data.stage_names:
            earlier = [self._label(k + 1) for k in range(before)]
            self.stages = [*earlier, *data.stage_names]
        if self.stages is None and self.tasks is not None and trainer.max_epochs == len(self.tasks) and not before:
            self.stages = self.tasks
        self._folder = run_folder(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._rows:  # resumed, perhaps into a new folder
            self._write(trainer)
            self._write_inside(trainer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.see(trainer)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._clock.step(trainer) == 0 and self._clock.stage(trainer) == 0 and trainer.is_global_zero:
            self._say_detectable(trainer)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before = dict(trainer.callback_metrics)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, self._before = self._before, {}
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        inside = not trainer.is_last_batch and trainer.global_step > 0
        step, begun = self._clock.step(trainer), trainer.is_last_batch or inside
        stage = self._clock.stage(trainer) + 1 if begun else self._clock.stages_before
        if not begun and stage in self._rows:
            return  # the row that the fit before has ended with
        # Lightning keeps old values in callback_metrics: only an object that is new was logged by this evaluation.
        logged = {name: x for name, x in trainer.callback_metrics.items() if x is not before.get(name)}
        scores = self._scores(logged)
        if not scores and inside:
            return
        if not scores:
            rank_zero_warn(f"ForgettingMatrix: no metric '{self.metric}' among the logged ones: {sorted(logged)}.")
            return
        self._found += [t for t in scores if t not in self._found]
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        given = {task: found for c in callbacks if hasattr(c, "item_scores") for task, found in c.item_scores.items()}
        items = {t: {str(i): _floats(x) for i, x in given[t].items()} for t in given}
        if inside:
            self._inside[step] = Evaluation(stage, step, scores, items)
            self._write_inside(trainer)
            return
        self._rows[stage] = MatrixRow(stage, self._label(stage), step, scores)
        self._items[stage] = items
        self._log(trainer)
        self._write(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self._rows:
            show(self.matrix, summarize(self.matrix), self._intervals(), undefined(self.matrix))

    @override
    def state_dict(self) -> dict[str, Any]:
        rows = [
            {"stage": k, "label": r.label, "step": r.step, "scores": dict(r.scores), "items": self._items.get(k, {})}
            for k, r in self._rows.items()
        ]
        detectable = {task: tuple(found) for task, found in self._detectable.items()}
        inside = [found._asdict() for found in self._inside.values()]
        found = {"found": list(self._found), "rows": rows, "detectable": detectable, "inside": inside}
        return found | {"clock": self._clock.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock.load_state_dict(state_dict.get("clock"))
        self._found = list(state_dict["found"])
        rows = state_dict["rows"]
        self._rows = {r["stage"]: MatrixRow(r["stage"], r["label"], r["step"], dict(r["scores"])) for r in rows}
        self._items = {r["stage"]: r["items"] for r in rows}
        self._inside = {x["step"]: Evaluation(**x) for x in state_dict.get("inside", [])}
        self._detectable = {task: Detectable(*values) for task, values in state_dict["detectable"].items()}

    def _label(self, stage: int) -> str:
        if stage == 0:
            return "base"
        if stage in self._rows:
            return self._rows[stage].label
        return self.stages[stage - 1] if self.stages and stage <= len(self.stages) else "stage"

    def _names(self, which: str, so_far: list[str] | None, found: Sequence[str] | None) -> list[str] | None:
        """What the user gave, else the names of this fit's data module behind those of earlier ones."""
        if which in self._given or found is None:
            return so_far
        return list(dict.fromkeys([*(so_far or []), *map(str, found)]))

    def _scores(self, logged: dict[str, Any]) -> dict[str, float]:
        found = {task: x for task, x in _matching(self.metric, logged).items() if task not in self._losses}
        found |= {task: x for task, x in _matching(self.loss_metric, logged).items() if task in self._losses}
        if self.tasks is None:
            return found
        return {name: found[name] for name in [*self.tasks, *(self.probes or [])] if name in found}

    @property
    def _known_items(self) -> dict[int, dict[str, dict[str, list[float]]]]:
        """Without abstentions, by row of the matrix."""
        return {stage: {task: known(items) for task, items in tasks.items()} for stage, tasks in self._items.items()}

    def _intervals(self) -> dict[str, tuple[float, float]]:
        items = {i: {task: means(x) for task, x in tasks.items()} for i, tasks in self._known_items.items()}
        return summary_intervals(self.matrix, items) if any(items.values()) else {}

    def _say_detectable(self, trainer: pl.Trainer) -> None:
        rows, losses = self._known_items.get(0, {}), self.matrix.losses
        scored = {task: detectable(x) for task, x in rows.items() if task not in losses}
        found = {task: x for task, x in scored.items() if x is not None}
        loaders: Any = trainer.val_dataloaders or []
        if not isinstance(loaders, (list, tuple)):
            loaders = [loaders]
        for loader in [] if found else loaders:
            if isinstance(loader, _Counted) and len(loader.rows):
                found[loader.task.name] = detectable_at(len(loader.rows), loader.num_generations)
        self._detectable = found
        if found:
            print("smallest change of a score that is found 8 times in 10 (paired, 95 % level):")
            width = max(map(len, found))
            for task, line in found.items():
                print(f"  {task:<{width}}  {line}")

    def _log(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        matrix, step, items = self.matrix, self._clock.step(trainer), self._known_items
        numbers = {f"continual/{name}": x for name, x in summarize(matrix).items()}
        last = matrix.rows[-1].stage
        for record in score_records(matrix, items):
            passes = [key for key in record if key.startswith("pass@")][-1:]
            if record["stage"] == last:
                numbers |= {f"tasks/{record['task']}/{k}": record[k] for k in ("low", "high", *passes) if k in record}
        for record in change_records(matrix, items, self.choices)[::-1]:  # the first of a task counts: its own stage
            if record["stage"] == last and "lost" in record:
                numbers |= {f"tasks/{record['task']}/{k}": record[k] for k in ("lost", "won")}
        loggers.log_numbers(trainer, {name: x for name, x in numbers.items() if math.isfinite(x)}, step)
        loggers.log_figure(trainer, "continual/matrix", lambda: heat_map(matrix, title=self.metric), step)
        loggers.log_figure(trainer, "continual/by_stage", lambda: accuracy_by_stage(matrix, title=self.metric), step)
        loggers.log_table(trainer, "continual/matrix", matrix, step)

    def _write(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or self._folder is None:
            return
        matrix, items = self.matrix, self._known_items
        summary, intervals, reasons = summarize(matrix), self._intervals(), undefined(matrix)
        content = {
            "metric": self.metric,
            "tasks": matrix.tasks,
            "probes": matrix.probes,
            **({"losses": list(matrix.losses)} if matrix.losses else {}),
            "rows": [
                {
                    "stage": row.stage,
                    "label": row.label,
                    "step": row.step,
                    "scores": {c: plain(matrix.score(i, c)) for c in matrix.columns},
                    "undefined": {c: why for c in matrix.columns if (why := matrix.reason(i, c))},
                }
                for i, row in enumerate(matrix.rows)
            ],
            "summary": {name: plain(x) for name, x in summary.items()},
            "intervals": intervals,
            "undefined": reasons,
            "detectable": {task: found._asdict() for task, found in self._detectable.items()},
        }
        scores = score_records(matrix, items)
        files = {
            "matrix.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
            "matrix.csv": matrix.csv(),
            "matrix.md": "\n\n".join([matrix.markdown(), summary_markdown(summary, intervals, reasons)]) + "\n",
            "tasks.csv": records_csv(scores),
        }
        if any(self._items.values()):
            files["changes.csv"] = records_csv(change_records(matrix, items, self.choices))
            lines = [
                {"stage": stage, "task": task, "scores": {i: compact(x) for i, x in scores.items()}}
                for stage, tasks in sorted(self._items.items())
                for task, scores in tasks.items()
            ]
            files["items.jsonl"] = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        for name, text in files.items():
            write_atomically(self._folder / name, text)

    def _write_inside(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or self._folder is None:
            return
        if self._inside:
            write_atomically(self._folder / FILE, evaluation_lines(self._inside.values()))
        else:  # what was measured after the checkpoint that the run goes on from
            (self._folder / FILE).unlink(missing_ok=True)


@runtime_checkable
class _Counted(Protocol):
    """A loader that says how many answers there will be."""

    task: Task
    rows: Sequence[Any]
    num_generations: int


def _matching(metric: str, logged: dict[str, Any]) -> dict[str, float]:
    """Values of a metric by task."""
    prefix, suffix = metric.split("{task}")
    pattern = re.compile(re.escape(prefix) + "(.+)" + re.escape(suffix))
    return {match[1]: float(x) for name, x in logged.items() if (match := pattern.fullmatch(name))}


def _floats(scores: Any) -> list[float]:
    """One score or those of several samples."""
    return [float(x) for x in scores] if isinstance(scores, (list, tuple)) else [float(scores)]
