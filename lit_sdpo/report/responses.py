"""Response drift as rows, Markdown, CSV, and the distances between tasks as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Estimate(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end.
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
    """

    step: int
    stage: int
    task: str
    role: str
    numbers: Mapping[str, Estimate]


def responses_csv(rows: Sequence[ResponseRow]) -> str:
    """Full precision, one line per measurement, task and number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["step", "stage", "task", "role", "number", *Estimate._fields])
    for row in rows:
        for name, estimate in row.numbers.items():
            ends = ("" if math.isnan(x) else repr(x) for x in estimate)
            writer.writerow([row.step, row.stage, row.task, row.role, name, *ends])
    return buffer.getvalue()


def responses_markdown(rows: Sequence[ResponseRow]) -> str:
    """A table with a line per task and a column per number, interval in brackets."""
    names = list(dict.fromkeys(name for row in rows for name in row.numbers))
    lines = [f"| task | role | {' | '.join(names)} |", "| --- | --- |" + " ---: |" * len(names)]
    for row in rows:
        cells = " | ".join(_cell(row.numbers.get(name)) for name in names)
        lines.append(f"| {row.task} | {row.role} | {cells} |")
    return "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "-"
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
