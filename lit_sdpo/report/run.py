"""One finished run as it lies on disk: everything that it wrote down."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lit_sdpo.errors import explained
from lit_sdpo.functional import MatrixDrift
from lit_sdpo.report.artifacts import ArtifactRow
from lit_sdpo.report.drift import DriftRow
from lit_sdpo.report.evaluations import FILE, Evaluation
from lit_sdpo.report.events import scalars
from lit_sdpo.report.items import Items, known
from lit_sdpo.report.responses import Estimate, ResponseRow
from lit_sdpo.report.summary import summarize
from lit_sdpo.report.tables import Matrix, MatrixRow

T = TypeVar("T")


class Series(NamedTuple):
    """A scalar over the run: optimizer steps and values."""

    steps: list[int]
    values: list[float]


def _of_file(name: str) -> Callable[[Callable[[Run], T]], Callable[[Run], T]]:
    """Marks what reads a file of a run: whatever goes wrong there is about the file."""

    def mark(read: Callable[[Run], T]) -> Callable[[Run], T]:
        @wraps(read)
        def reading(run: Run) -> T:
            with explained("the file is not what a run writes", where=str(run.folder / name), fix="leave the run out"):
                return read(run)

        return reading

    return mark


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run. Its files are read when they are asked for; what a run did not write is empty.

    Attributes:
        folder: Where its files lie.
        method: Name of the settings that it shares with the runs of other seeds.
        seed: Its ``seed_everything``.
        config: The resolved configuration.
        origin: Where it was found, for a reader; by default its folder.
    """

    folder: Path
    method: str
    seed: int
    config: Mapping[str, Any] = field(repr=False)
    origin: str = ""

    @cached_property
    def matrix(self) -> Matrix:
        """Scores after every stage."""
        return read_matrix(self.folder / "matrix.json")

    @cached_property
    @_of_file("items.jsonl")
    def items(self) -> Items:
        """Scores of the samples of every prompt, by row of the matrix and task."""
        found: dict[int, dict[str, dict[str, list[float]]]] = {}
        for line in _json_lines(self.folder / "items.jsonl"):
            scores = {item: _samples(x) for item, x in line["scores"].items()}
            found.setdefault(line["stage"], {})[line["task"]] = known(scores)
        return found

    @cached_property
    @_of_file(FILE)
    def inside(self) -> list[Evaluation]:
        """Evaluations inside stages; without prompts where only the event files have them."""
        found: dict[tuple[int, int], tuple[dict[str, float], dict[str, dict[str, list[float]]]]] = {}
        for line in _json_lines(self.folder / FILE):
            scores, items = found.setdefault((line["stage"], line["step"]), ({}, {}))
            scores[line["task"]] = _number(line["score"])
            items[line["task"]] = {item: _samples(x) for item, x in line["scores"].items()}
        return [Evaluation(*when, *what) for when, what in found.items()] or self._logged_inside()

    def _logged_inside(self) -> list[Evaluation]:
        logged = {task: dict(self.tags.get(f"val/{task}/accuracy", ())) for task in self.matrix.columns}
        found = []
        for before, row in itertools.pairwise(self.matrix.rows):
            if before.step is not None and row.step is not None:
                between = range(before.step + 1, row.step)
                steps = sorted({step for values in logged.values() for step in values if step in between})
                found += [
                    Evaluation(row.stage, step, {task: x[step] for task, x in logged.items() if step in x}, {})
                    for step in steps
                ]
        return found

    @cached_property
    def summary(self) -> dict[str, float]:
        """The continual-learning numbers at the end (:func:`~lit_sdpo.report.summary.summarize`)."""
        return summarize(self.matrix)

    @cached_property
    def tags(self) -> Mapping[str, list[tuple[int, float]]]:
        """Every scalar of the event files."""
        return scalars(self.folder)

    def scalars(self, tag: str) -> Series:
        """Steps and values of a scalar; both empty where it was not logged."""
        logged = self.tags.get(tag, ())
        return Series([step for step, _ in logged], [value for _, value in logged])

    @cached_property
    @_of_file("drift.csv")
    def drift(self) -> list[DriftRow]:
        """Change of every weight matrix."""
        numbers = ((row, _drift_numbers(row)) for row in self._table("drift"))
        return [
            DriftRow(
                step=int(row["step"]),
                stage=int(row["stage"]),
                name=row["name"],
                kind=row["type"],
                layer=int(row["layer"]) if row["layer"] else None,
                drift=MatrixDrift(**fields),
            )
            for row, fields in numbers
        ]

    @cached_property
    @_of_file("response_drift.csv")
    def responses(self) -> list[ResponseRow]:
        """Divergence from the base, entropy, length and similarity of responses, by task; stage 0 is the base."""
        found: dict[tuple[int, int, str, str], tuple[dict[str, Estimate], list[float]]] = {}
        for row in self._table("response_drift"):
            numbers, _ = found.setdefault(_measurement(row), ({}, []))
            numbers[row["number"]] = Estimate(*(_number(row[name]) for name in Estimate._fields))
        for row in self._table("response_similarity"):
            _, similarities = found.setdefault(_measurement(row), ({}, []))
            similarities.append(_number(row["similarity"]))
        return [ResponseRow(*key, *measured) for key, measured in found.items()]

    @cached_property
    @_of_file("artifacts.jsonl")
    def artifacts(self) -> list[ArtifactRow]:
        """Repetition, leakage and amplified n-grams of every evaluation, by task."""
        lines = _json_lines(self.folder / "artifacts.jsonl")
        return [ArtifactRow(**line | {"numbers": _numbers(line["numbers"])}) for line in lines]

    @cached_property
    @_of_file("prompt_distance.csv")
    def distances(self) -> dict[str, dict[str, float]]:
        """Distance (MMD) of every task's prompts from every other's."""
        rows = self._table("prompt_distance")
        return {row["task"]: {task: _number(x) for task, x in row.items() if task != "task"} for row in rows}

    @cached_property
    @_of_file("sweep.json")
    def cpu_seconds(self) -> float:
        """CPU time of all its processes, which a sweep writes down; nan where none did."""
        path = self.folder / "sweep.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return float(record.get("cpu_seconds", math.nan))

    def _table(self, name: str) -> list[dict[str, str]]:
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))


def read_matrix(path: Path) -> Matrix:
    """The retention matrix of a ``matrix.json``."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [MatrixRow(x["stage"], x["label"], x["step"], _numbers(x["scores"])) for x in content["rows"]]
    return Matrix(content["tasks"], content["probes"], rows, content.get("losses", ()))


def _measurement(row: Mapping[str, str]) -> tuple[int, int, str, str]:
    """Step, stage, task and role of a line of a table."""
    return int(row["step"]), int(row["stage"]), row["task"], row["role"]


def _drift_numbers(row: Mapping[str, str]) -> dict[str, float]:
    if "mask_update_absolute" not in row:  # older files knew that one alone, by the shorter name
        row = {**row, "mask_update_absolute": row["mask_update"], "mask_update": ""}
    return {name: _number(row[name]) for name in MatrixDrift._fields}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _number(x: str | float | None) -> float:
    return math.nan if x is None or x == "" else float(x)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _number(x) for name, x in values.items()}


def _samples(scores: float | Sequence[float | None] | None) -> list[float]:
    """One score or those of several samples, as :class:`~lit_sdpo.ForgettingMatrix` writes them."""
    return [_number(x) for x in scores] if isinstance(scores, list) else [_number(scores)]  # type: ignore[arg-type]
