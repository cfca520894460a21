"""The retention matrix: scores after every stage, as Markdown, plain text and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from lit_sdpo.text import tasks_of

MISSING = "-"


@dataclass(frozen=True)
class MatrixRow:
    """The scores at the end of one stage.

    Attributes:
        stage: 0 before training, then 1, 2, ...
        label: ``"base"`` for row 0, else the name of the task the stage trained on, or those of a mixture.
        step: Optimizer step of the evaluation; ``None`` where the stage was not evaluated.
        scores: Task or probe to score; nan or absent where there was none.
    """

    stage: int
    label: str
    step: int | None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What a reader sees in front of the row: ``base``, ``1 math``, ``2 science``."""
        return self.label if self.stage == 0 else f"{self.stage} {self.label}"


@dataclass(frozen=True)
class Matrix:
    """Scores ``R[i][j]`` on task or probe j after stage i, with row 0 before training.

    Attributes:
        tasks: Tasks of the stream, in order of first appearance.
        probes: Tasks that are only evaluated.
        rows: One row per stage, numbered without gaps from 0.
        losses: Those tasks and probes of whose score less is better.

    Example:
        >>> rows = [MatrixRow(0, "base", 0, {"math": 0.25, "law": 0.5}), MatrixRow(1, "math", 9, {"math": 0.75})]
        >>> print(Matrix(["math"], ["law"], rows).plain())
        stage   step    math    law
        base       0   0.250  0.500
        1 math     9  *0.750      -
    """

    tasks: Sequence[str]
    probes: Sequence[str]
    rows: Sequence[MatrixRow]
    losses: Collection[str] = ()

    @property
    def columns(self) -> list[str]:
        """Tasks, then probes."""
        return [*self.tasks, *self.probes]

    @property
    def headings(self) -> list[str]:
        """What stands above the columns: their names, and which are losses."""
        return [f"{column} (loss)" if column in self.losses else column for column in self.columns]

    def sign(self, column: str) -> int:
        """1 where more of a score is better, -1 for losses."""
        return -1 if column in self.losses else 1

    def score(self, row: int, column: str) -> float:
        """``R[row][column]``, nan where undefined."""
        return float(self.rows[row].scores.get(column, math.nan))

    def reason(self, row: int, column: str) -> str | None:
        """Why ``R[row][column]`` is undefined; ``None`` where it is not."""
        found = self.rows[row]
        if found.step is None:
            return "no evaluation before the first step" if found.stage == 0 else "the stage was not evaluated"
        if column not in found.scores:
            return "the evaluation did not log it"
        return "the logged score is nan" if math.isnan(found.scores[column]) else None

    def trained(self, row: int, column: str) -> bool:
        """Whether the stage of this row trained on the task of this column."""
        return row > 0 and column in tasks_of(self.rows[row].label, self.tasks)

    def markdown(self) -> str:
        """A Markdown table; the task a stage trained on is bold."""
        lines = [
            _markdown_row(["stage", "step", *self.headings]),
            _markdown_row(["---"] + ["---:"] * (len(self.columns) + 1), escape=False),
        ]
        for i, row in enumerate(self.rows):
            cells = [_cell(self.score(i, c)) for c in self.columns]
            marked = [f"**{x}**" if self.trained(i, c) else x for x, c in zip(cells, self.columns, strict=True)]
            lines.append(_markdown_row([row.title, _step(row), *marked]))
        return "\n".join(lines)

    def cells(self) -> list[list[str]]:
        """Header and rows as text; a star marks the task a stage trained on."""
        table = [["stage", "step", *self.headings]]
        for i, row in enumerate(self.rows):
            scores = [("*" if self.trained(i, c) else "") + _cell(self.score(i, c)) for c in self.columns]
            table.append([row.title, _step(row), *scores])
        return table

    def plain(self) -> str:
        """An aligned table for a terminal or a log."""
        table = self.cells()
        widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
        lines = []
        for row in table:
            cells = [row[0].ljust(widths[0])] + [x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def csv(self) -> str:
        """Full precision, one line per stage; undefined cells are empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["stage", "label", "step", *self.columns])
        for i, row in enumerate(self.rows):
            scores = (self.score(i, c) for c in self.columns)
            step = "" if row.step is None else row.step
            writer.writerow([row.stage, row.label, step, *("" if math.isnan(x) else repr(x) for x in scores)])
        return buffer.getvalue()


def _cell(score: float) -> str:
    return MISSING if math.isnan(score) else f"{score:.3f}"


def _step(row: MatrixRow) -> str:
    return MISSING if row.step is None else str(row.step)


def _markdown_row(cells: Sequence[str], escape: bool = True) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") if escape else c for c in cells) + " |"


def summary_markdown(
    summary: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], reasons: Mapping[str, str]
) -> str:
    """A Markdown table of the summary: value, 95 % interval, and why a value is undefined."""
    lines = [_markdown_row(["number", "value", "95 % interval", ""]), "| --- | ---: | ---: | --- |"]
    for name, value in summary.items():
        interval = "[{:.3f}, {:.3f}]".format(*intervals[name]) if name in intervals else ""
        lines.append(_markdown_row([name, _cell(value), interval, reasons.get(name, "")]))
    return "\n".join(lines)


def show(
    matrix: Matrix,
    summary: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Print the matrix and its summary: a drawn table on a terminal, plain text elsewhere.

    Args:
        matrix: The matrix.
        summary: Name to number.
        intervals: 95 % intervals of numbers that have one.
        reasons: Why a number is undefined.
    """
    if not _drawn(matrix.cells()):
        print(matrix.plain())
    width = max(map(len, summary), default=0)
    for name, value in summary.items():
        if math.isnan(value):
            reason = (reasons or {}).get(name)
            text = f"undefined: {reason}" if reason else "undefined"
        else:
            text = f"{value:.3f}"
            if intervals and name in intervals:
                text += "  [{:.3f}, {:.3f}]".format(*intervals[name])
        print(f"{name:<{width}}  {text}")


def _drawn(cells: Sequence[Sequence[str]]) -> bool:
    """Draw a table where there is a terminal, and rich."""
    if find_spec("rich") is None:
        return False
    from rich.console import Console
    from rich.table import Table

    if not (console := Console()).is_terminal:
        return False
    header, *body = cells
    table = Table(title="score on each task after each stage")
    for k, name in enumerate(header):
        table.add_column(name, justify="left" if k == 0 else "right")
    for row in body:
        table.add_row(*row)
    console.print(table)
    return True
