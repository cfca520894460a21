"""Scores of single questions that the lm-evaluation-harness has written, and what became of them in between.

With ``--log_samples`` the harness (0.4) writes ``samples_<task>_<date>.jsonl``: a line for each question and filter,
with ``doc_id``, ``doc_hash``, ``prompt_hash``, ``filter``, ``arguments``, the names of ``metrics`` and their values.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lit_sdpo.errors import UserError
from lit_sdpo.functional import mean_interval
from lit_sdpo.report.items import Record, change_records
from lit_sdpo.report.tables import Matrix, MatrixRow

#: Metrics that are right or wrong, the preferred ones first.
PREFERRED = ("acc", "exact_match", "acc_norm", "pass@1", "pass_at_1", "prompt_level_strict_acc", "em")
FILE = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")


@dataclass(frozen=True)
class Outcome:
    """Scores of the questions of one task, by one metric and filter.

    Attributes:
        task: Name of the task.
        metric: Name of the metric.
        filter: Name of the filter; ``none`` where the task has no other.
        scores: By the question's ``doc_id``.
        questions: Hash of each question.
        prompts: Hash of each prompt as it was rendered.
        choices: Options per question, the most common number; ``None`` for free answers.
    """

    task: str
    metric: str
    filter: str
    scores: Mapping[str, float]
    questions: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    choices: int | None = None


def read_samples(
    place: Path, *, metric: str | None = None, filter: str | None = None, choices: int | None = None
) -> dict[str, Outcome]:
    """The outcome of each task; where a task was evaluated several times, of the latest.

    Args:
        place: A samples file, or a folder with such files in it or below.
        metric: Which metric, of the tasks that have it; the others' is the first of :data:`PREFERRED` that they have,
            else their first.
        filter: Which filter, of the tasks that have it; the others' is their first.
        choices: Options per question, instead of counting them.

    Raises:
        UserError: There are no samples, a line cannot be read, or no task has the metric or filter.
    """
    lines = {task: _lines(path) for task, path in _files(place).items()}
    filters = {
        task: list(dict.fromkeys(str(line.get("filter", "none")) for line in found)) for task, found in lines.items()
    }
    metrics = {task: _metrics(found[0]) for task, found in lines.items()}
    if empty := [task for task, names in metrics.items() if not names]:
        raise UserError("no metric has one number for each question", where=f"{place}: {empty[0]}", fix="leave it out")
    for what, wanted, known in (("metric", metric, metrics), ("filter", filter, filters)):
        names = list(dict.fromkeys(name for each in known.values() for name in each))
        if wanted is not None and wanted not in names:
            raise UserError(f"no {what} {wanted!r}", where=str(place), fix=f"use one of: {', '.join(names)}")
    outcomes: dict[str, Outcome] = {}
    for task, found in lines.items():
        preferred = [metric, *PREFERRED, metrics[task][0]]
        name = next(name for name in preferred if name in metrics[task])
        chosen = filter if filter in filters[task] else filters[task][0]
        rows = [line for line in found if str(line.get("filter", "none")) == chosen]
        outcomes[task] = _outcome(task, rows, str(name), str(chosen), choices)
    return outcomes


def transitions_between(before: Mapping[str, Outcome], after: Mapping[str, Outcome]) -> list[Record]:
    r"""What became of the questions of each task that both have.

    A record has the keys of :func:`~lit_sdpo.report.items.change_records` (``before``, ``after``, ``change`` with
    ``low`` and ``high``, ``lost`` (1→0), ``won`` (0→1), ``by_guessing``, ``lost_true``, ``won_true``, ``mcnemar``) and
    the 95 % intervals ``lost_low``, ``lost_high``, ``won_low``, ``won_high`` of the means of
    ``before * (1 - after)`` and ``(1 - before) * after`` over the questions.

    Args:
        before: Outcomes by task.
        after: The same, of another model.

    Raises:
        UserError: They have no task in common, or asked other questions.

    Example:
        >>> one = Outcome("quiz", "acc", "none", {"0": 1.0, "1": 1.0, "2": 0.0}, choices=4)
        >>> two = Outcome("quiz", "acc", "none", {"0": 1.0, "1": 0.0, "2": 0.0}, choices=4)
        >>> (record,) = transitions_between({"quiz": one}, {"quiz": two})
        >>> [round(record[key], 3) for key in ("lost", "won", "by_guessing", "lost_true")]
        [0.333, 0.0, 0.074, 0.259]
    """
    shared = [task for task in before if task in after]
    if not shared:
        sides = f"before: {', '.join(before)}; after: {', '.join(after)}"
        raise UserError(f"no task is in both evaluations ({sides})", fix="evaluate both models on the same tasks")
    records: list[Record] = []
    for task in shared:
        a, b = before[task], after[task]
        _check(a, b)
        scores = [{task: {item: [x] for item, x in side.scores.items()}} for side in (a, b)]
        rows = [
            MatrixRow(i, name, i, {task: _mean(side)}) for i, (name, side) in enumerate((("base", a), ("after", b)))
        ]
        known = b.choices if a.choices is None else a.choices
        choices = {} if known is None else {task: known}
        for record in change_records(Matrix([], [task], rows), dict(enumerate(scores)), choices):
            head = {"task": task, "metric": a.metric, "filter": a.filter, "choices": known}
            rest = {key: value for key, value in record.items() if key not in ("stage", "step", "since", "since_stage")}
            records.append(head | rest | _intervals(a, b))
    return records


def other_prompts(before: Outcome, after: Outcome) -> int:
    """How many of the common questions were rendered differently, as by another chat template or other examples."""
    common = [item for item in before.prompts if item in after.prompts]
    return sum(before.prompts[item] != after.prompts[item] for item in common)


def _intervals(before: Outcome, after: Outcome) -> Record:
    shared = [item for item in before.scores if item in after.scores]
    p, q = (torch.tensor([side.scores[i] for i in shared], dtype=torch.float64) for side in (before, after))
    if not all(0 <= x <= 1 for x in (*p.tolist(), *q.tolist())):
        return {}
    found: Record = {}
    for name, moved in (("lost", p * (1 - q)), ("won", (1 - p) * q)):
        found[f"{name}_low"], found[f"{name}_high"], _ = mean_interval(moved)
    return found


def _check(before: Outcome, after: Outcome) -> None:
    if (before.metric, before.filter) != (after.metric, after.filter):
        sides = f"{before.metric},{before.filter} and {after.metric},{after.filter}"
        raise UserError(f"the evaluations have different metrics ({sides})", where=before.task, fix="give --metric")
    shared = [item for item in before.scores if item in after.scores]
    others = [
        i for i in shared if i in before.questions and after.questions.get(i, "") not in ("", before.questions[i])
    ]
    if others or not shared:
        what = f"{len(others)} of {len(shared)} questions differ" if others else "no question is in both evaluations"
        fix = "evaluate both models with the same version, split and limit of the task"
        raise UserError(what, where=before.task, fix=fix)


def _mean(outcome: Outcome) -> float:
    return sum(outcome.scores.values()) / len(outcome.scores) if outcome.scores else math.nan


def _files(place: Path) -> dict[str, Path]:
    if place.is_file():
        match = FILE.fullmatch(place.name)
        return {match["task"] if match else place.stem.removeprefix("samples_"): place}
    latest: dict[str, tuple[str, Path]] = {}
    for path in sorted(place.rglob("samples_*.jsonl")):
        if match := FILE.fullmatch(path.name):
            latest[match["task"]] = max(latest.get(match["task"], ("", path)), (match["date"], path))
    if not latest:
        fix = "run lm_eval with --log_samples and --output_path, and give that folder"
        raise UserError("there are no samples_<task>_<date>.jsonl", where=str(place), fix=fix)
    return {task: path for task, (_, path) in sorted(latest.items())}


def _lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError("the line is not JSON", where=f"{path}, line {number}") from error
            if not isinstance(found, dict) or "doc_id" not in found:
                raise UserError("the line has no doc_id", where=f"{path}, line {number}", fix="give files of lm_eval")
            lines.append(found)
    if not lines:
        raise UserError("there are no samples in it", where=str(path), fix="evaluate again")
    return lines


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """Those that give a question one number."""
    return [name for name in row.get("metrics", ()) if _number(row.get(name)) is not None]


def _outcome(task: str, rows: Sequence[Mapping[str, Any]], metric: str, filter: str, choices: int | None) -> Outcome:
    scores: dict[str, float] = {}
    questions: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for row in rows:
        score, item = _number(row.get(metric)), str(row["doc_id"])
        if score is not None:
            scores[item] = score
            questions[item], prompts[item] = str(row.get("doc_hash", "")), str(row.get("prompt_hash", ""))
    common = choices or Counter(_options(row) for row in rows).most_common(1)[0][0]
    return Outcome(task, metric, filter, scores, questions, prompts, common if common and common > 1 else None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return None if math.isnan(value) else float(value)
    return None


def _options(row: Mapping[str, Any]) -> int | None:
    """Options of a question, which the model was asked the likelihood of; without those after an empty prompt."""
    arguments = row.get("arguments")
    entries: list[Any] = list(arguments.values()) if isinstance(arguments, Mapping) else list(arguments or ())
    pairs = [list(entry.values()) if isinstance(entry, Mapping) else entry for entry in entries]
    asked = [pair for pair in pairs if len(pair) == 2 and isinstance(pair[1], str) and pair[0] != ""]
    return len(asked) if len(asked) > 1 else None
