"""Response drift as rows, Markdown, CSV and scalars, and the distances between tasks as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from lit_sdpo.report.text_table import TextTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Estimate(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end; nan where the prompts do not differ, of whose spread then nothing is known.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ResponseRow:
    """What was measured on the prompts of one task at one time.

    Attributes:
        step: Optimizer steps taken.
        stage: Number of the stage, from 1; 0 is before training.
        task: Its name, or ``current`` or ``earlier`` for means over tasks.
        role: ``current`` for the task of the stage, ``earlier`` for those of stages before, else ``other``.
        numbers: Name to estimate.
        similarities: Of each prompt, in the order in which they are asked; empty for means over tasks, and where they
            were not written down.
    """

    step: int
    stage: int
    task: str
    role: str
    numbers: Mapping[str, Estimate]
    similarities: Sequence[float] = ()

    def plain(self) -> list[Any]:
        """As lists and numbers, which a checkpoint can hold."""
        numbers = {name: list(estimate) for name, estimate in self.numbers.items()}
        return [self.step, self.stage, self.task, self.role, numbers, list(self.similarities)]

    @classmethod
    def from_plain(
        cls,
        step: int,
        stage: int,
        task: str,
        role: str,
        numbers: Mapping[str, Sequence[float]],
        similarities: Sequence[float] = (),  # which older checkpoints lack
    ) -> ResponseRow:
        """The row that :meth:`plain` took apart."""
        estimates = {name: Estimate(*estimate) for name, estimate in numbers.items()}
        return cls(step, stage, task, role, estimates, similarities)


def responses_csv(rows: Sequence[ResponseRow]) -> str:
    """Full precision, one line per measurement, task and number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["step", "stage", "task", "role", "number", *Estimate._fields])
    for row in rows:
        for name, estimate in row.numbers.items():
            writer.writerow([row.step, row.stage, row.task, row.role, name, *map(_full, estimate)])
    return buffer.getvalue()


def similarities_csv(rows: Sequence[ResponseRow]) -> str:
    """Full precision, one line per measurement, task and prompt; a task's prompts are numbered from 0."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["step", "stage", "task", "role", "prompt", "similarity"])
    for row in rows:
        head = row.step, row.stage, row.task, row.role
        writer.writerows([*head, prompt, _full(x)] for prompt, x in enumerate(row.similarities))
    return buffer.getvalue()


def _full(x: float) -> str:
    return "" if math.isnan(x) else repr(x)


def responses_scalars(rows: Sequence[ResponseRow]) -> dict[str, float]:
    """What loggers get: ``drift/responses/<task>/<number>``, of the KLs also the ends of the interval; no nan."""
    found: dict[str, float] = {}
    for row in rows:
        for name, estimate in row.numbers.items():
            ends = {f"{name}_{end}": getattr(estimate, end) for end in ("low", "high")} if "_kl" in name else {}
            some = {name: estimate.value} | ends
            found |= {f"drift/responses/{row.task}/{k}": x for k, x in some.items() if math.isfinite(x)}
    return found


def responses_table(rows: Sequence[ResponseRow]) -> TextTable:
    """A line per task and a column per number, interval in brackets."""
    names = list(dict.fromkeys(name for row in rows for name in row.numbers))
    cells = [[row.task, row.role, *(_cell(row.numbers.get(name)) for name in names)] for row in rows]
    return TextTable(["task", "role", *names], cells, numbers=names)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.low):
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def distances_csv(tasks: Sequence[str], matrix: Tensor) -> str:
    """The distances between tasks' prompts, a line per task."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["task", *tasks])
    writer.writerows([task, *map(repr, row)] for task, row in zip(tasks, matrix.tolist(), strict=True))
    return buffer.getvalue()


def distance_map(tasks: Sequence[str], matrix: Tensor, *, title: str = "") -> Figure:
    """Draw the distances between tasks' prompts, the number in every cell."""
    # Imported here: a run without a logger never pays for it, and no global backend is touched.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = 2.2 + 0.75 * len(tasks)
    figure = Figure(figsize=(size + 0.6, size), dpi=100)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix.numpy(), cmap="cividis")
    low, high = float(matrix.min()), float(matrix.max())
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            dark = value - low < 0.55 * (high - low)
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.tick_params(length=0)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, fraction=0.05)
    return figure
