"""The runs of a study that went through the same stages, which is what one figure can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from lit_sdpo.report.charts.draw.lines import Stage
from lit_sdpo.report.charts.numbers import ANY, Array, Range
from lit_sdpo.report.charts.style import Look, looks
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study, settings_of
from lit_sdpo.report.tables import Matrix

#: A base score below this share has no relative change worth reading: a percentage of next to nothing explodes.
LEAST_BASE = 0.05

WITH_INTERVALS = (
    "Bars with caps: 95 % t-interval of the mean over seeds, drawn from three seeds on; small dots: single seeds."
)


@dataclass(frozen=True)
class Stream:
    """Runs that begin with one base and go, in one world, through the same tasks, probes and stages.

    Attributes:
        runs: By method, each by seed.
        looks: How methods are drawn, the same in every figure of the report.
        number: Of this stream among those of the report, from 1; 0 where it is the only one.
        label: What tells it from the others.
    """

    runs: Mapping[str, Sequence[Run]]
    looks: Mapping[str, Look]
    number: int = 0
    label: str = ""

    @cached_property
    def matrix(self) -> Matrix:
        """That of the first run, for its rows and columns."""
        return next(iter(self.runs.values()))[0].matrix

    @property
    def ticks(self) -> list[str]:
        """What stands below the points after each stage."""
        return ["base" if row.stage == 0 else f"{row.stage}\n{row.label}" for row in self.matrix.rows]

    @property
    def stages(self) -> list[Stage]:
        """Where each stage begins, by optimizer steps."""
        rows = self.matrix.rows
        return [Stage(before.step or 0, row.label) for before, row in pairwise(rows)]

    @property
    def seeds(self) -> str:
        """How many there are, for a caption."""
        counts = sorted({len(runs) for runs in self.runs.values()})
        least, most = counts[0], counts[-1]
        return f"{most} seed{'s' * (most != 1)}" if least == most else f"{least} to {most} seeds per method"

    def name(self, stem: str) -> str:
        """File name of a figure of this stream."""
        return f"{stem}-{self.number}" if self.number else stem

    def title(self, text: str) -> str:
        """Title of a figure of this stream."""
        return f"{text} (stream {self.number})" if self.number else text

    @property
    def study(self) -> Study:
        """Its runs as a study of their own, within which methods are compared."""
        return Study([run for runs in self.runs.values() for run in runs])

    @property
    def heading(self) -> str:
        """Its number among those of the report, and what tells it from them."""
        return f"Stream {self.number}: {self.label}" if self.number else ""

    def scores(self, method: str) -> Array:
        """Scores of a method, [seeds, rows, columns], nan where there is none."""
        columns = self.matrix.columns
        return np.array(
            [
                [[run.matrix.score(i, c) for c in columns] for i in range(len(run.matrix.rows))]
                for run in self.runs[method]
            ]
        ).reshape(len(self.runs[method]), len(self.matrix.rows), len(columns))

    def changes(self, columns: Sequence[str]) -> tuple[bool, dict[str, Array]]:
        """Change of every score from the run's own base.

        Returns:
            Whether it is in percent of the base; in points where a base score is too small for that. And the changes of
            each method, [seeds, rows, columns].
        """
        places = [self.matrix.columns.index(c) for c in columns]
        scores = {method: self.scores(method)[:, :, places] for method in self.runs}
        relative = all(bool((s[:, 0] >= LEAST_BASE).all()) for s in scores.values())
        return relative, {m: 100 * (s - s[:, :1]) / (s[:, :1] if relative else 1.0) for m, s in scores.items()}

    def possible_changes(self, columns: Sequence[str], *, relative: bool) -> Range:
        """Values that :meth:`changes` can have: nothing loses more than all that it had, and points are of a score."""
        places = [self.matrix.columns.index(c) for c in columns]
        scores = np.concatenate([self.scores(method)[:, :, places].ravel() for method in self.runs])
        known = scores[np.isfinite(scores)]
        if relative:
            return (-100.0, math.inf) if (known >= 0).all() else ANY
        of_losses = any(c in self.matrix.losses for c in columns)
        return ANY if of_losses or (known < 0).any() or (known > 1).any() else (-100.0, 100.0)

    def over_steps(self, read: Callable[[Run], Mapping[int, float]]) -> dict[str, tuple[list[float], Array]]:
        """A number by optimizer step: for each method that has it, all steps and a row of values per seed.

        Args:
            read: Gives a run's values by step.
        """
        found = {}
        for method, runs in self.runs.items():
            rows = [read(run) for run in runs]
            steps = sorted({step for row in rows for step in row})
            if steps:
                values = [[row.get(step, np.nan) for step in steps] for row in rows if row]
                found[method] = ([float(s) for s in steps], np.array(values))
        return found


def streams(study: Study) -> list[Stream]:
    """The study's streams, the one with most runs first."""
    look, parts = looks(study.methods), study.streams()
    by_method = [{method: part.runs(method) for method in part.methods} for part in parts]
    if len(parts) == 1:
        return [Stream(by_method[0], look)]
    labels = _labels([part.all_runs[0] for part in parts])
    return [Stream(runs, look, k, label) for k, (runs, label) in enumerate(zip(by_method, labels, strict=True), 1)]


def _labels(firsts: Sequence[Run]) -> list[str]:
    """What tells the first runs of streams apart: stages, steps of a stage, the base, and what differs of the world."""
    found = []
    for run in firsts:
        settings = settings_of(run)
        parts = [settings["stages"], f"{settings['steps']} steps a stage", f"base {settings['base']}"]
        parts += (settings["world"] or "").split(", ")
        found.append(dict.fromkeys(filter(None, parts)))
    shared = set.intersection(*map(set, found))
    told = [", ".join(part for part in parts if part not in shared) for parts in found]
    return [label or f"group {k}" for k, label in enumerate(told, 1)]


def extremes(values: Mapping[str, float], form: str = "+.1f", unit: str = "") -> str:
    """Which method is highest and which lowest, for the text beside a figure.

    Example:
        >>> extremes({"grpo": 3.21, "sft": -2.0}, unit=" %")
        'highest grpo (+3.2 %), lowest sft (-2.0 %)'
    """
    known = {m: x for m, x in values.items() if np.isfinite(x)}
    if not known:
        return "no method has a value"
    best, worst = max(known, key=lambda m: known[m]), min(known, key=lambda m: known[m])
    if len(known) == 1:
        return f"{best} {known[best]:{form}}{unit}"
    return f"highest {best} ({known[best]:{form}}{unit}), lowest {worst} ({known[worst]:{form}}{unit})"
