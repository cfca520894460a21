"""The retention matrix as pictures, which are read in a small card: large type, few digits."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from lit_sdpo.report.tables import MISSING, Matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Sizes of type in points: in a figure as wide as these, a card of 300 pixels still shows letters of about 10.
LARGE, SMALL = 15, 13


def heat_map(matrix: Matrix, *, title: str = "") -> Figure:
    """Draw the matrix: a row per stage, a column per task and probe, the score in every cell.

    Scores from 0 to 1 have two digits, as ``.95``; the table beside the picture has all. Colours (cividis) stay apart
    for colour-blind readers, and the number is in the cell anyway. A frame marks the task a stage trained on, a line
    parts tasks from probes, undefined cells are grey. The scale is 0 to 1 where all scores lie in it, else the range of
    the scores; a loss has the shades of its column's range, the least loss the brightest.
    """
    import numpy as np
    from matplotlib.patches import Rectangle

    from lit_sdpo.report.charts.numbers import score_limits, shades

    columns = matrix.columns
    scores = np.array([[matrix.score(i, c) for c in columns] for i in range(len(matrix.rows))], dtype=float)
    scores = scores.reshape(len(matrix.rows), len(columns))
    losses = np.array([column in matrix.losses for column in columns], dtype=bool)
    low, high = score_limits(scores[:, ~losses])
    shaded = shades(scores, list(losses), (low, high))

    texts = [[_cell(float(scores[i, j])) for j in range(len(columns))] for i in range(len(matrix.rows))]
    width = 0.25 + 0.12 * max((len(text) for row in texts for text in row), default=3)
    names = max((len(c) for c in matrix.headings), default=0)
    labels = max((len(row.title) for row in matrix.rows), default=0)
    figure = _figure(0.7 + 0.11 * labels + width * len(columns), 1.0 + 0.1 * names + 0.5 * len(matrix.rows))
    axes = figure.add_subplot()
    axes.set_facecolor("lightgrey")
    axes.imshow(np.ma.masked_invalid(shaded), cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for i in range(len(matrix.rows)):
        for j, column in enumerate(columns):
            known_cell = bool(np.isfinite(scores[i, j]))
            dark = known_cell and (shaded[i, j] - low) / (high - low) < 0.55
            axes.text(j, i, texts[i][j], ha="center", va="center", color="white" if dark else "black", fontsize=LARGE)
            if matrix.trained(i, column):
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="black", linewidth=3))
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="white", linewidth=1))
    if matrix.probes and matrix.tasks:
        axes.axvline(len(matrix.tasks) - 0.5, color="black", linewidth=2)
    upright = names <= 4
    axes.set_xticks(
        range(len(columns)),
        matrix.headings,
        rotation=0 if upright else 60,
        ha="center" if upright else "left",
        rotation_mode="anchor",
        fontsize=SMALL,
    )
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(matrix.rows)), [row.title for row in matrix.rows], fontsize=SMALL)
    axes.tick_params(length=0)
    if title:
        axes.set_title(title, fontsize=SMALL)
    return figure


def accuracy_by_stage(matrix: Matrix, *, title: str = "") -> Figure:
    """Draw the score on every task after every stage: a line per task in a colour and with a marker of its own.

    Probes are dashed and thin; a large marker stands where a stage trained the task. Losses, which have another scale,
    are left out.
    """
    from lit_sdpo.report.charts.style import looks

    columns = [column for column in matrix.columns if column not in matrix.losses]
    stages = [row.stage for row in matrix.rows]
    figure = _figure(5.4, 4.4)
    axes = figure.add_subplot()
    for column, look in looks(columns).items():
        probe = column in matrix.probes
        scores = [matrix.score(i, column) for i in range(len(matrix.rows))]
        own = [matrix.trained(i, column) for i in range(len(matrix.rows))]
        axes.plot(
            stages,
            scores,
            label=column,
            color=look.colour,
            marker=look.marker,
            linestyle="--" if probe else "-",
            linewidth=1.2 if probe else 2.5,
            markersize=5,
        )
        places, heights = ([x for x, at in zip(of, own, strict=True) if at] for of in (stages, scores))
        axes.scatter(places, heights, s=120, color=look.colour, marker=look.marker, zorder=3)
    known = [x for i in range(len(matrix.rows)) for c in columns if math.isfinite(x := matrix.score(i, c))]
    if known and min(known) >= 0 and max(known) <= 1:
        axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(stages, [row.title for row in matrix.rows], fontsize=SMALL)
    axes.tick_params(axis="y", labelsize=SMALL)
    axes.grid(axis="y", alpha=0.4)
    if title:
        axes.set_title(title, fontsize=SMALL)
    if columns:
        figure.legend(loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure


def _cell(value: float) -> str:
    """A score in as few letters as can be.

    Example:
        >>> _cell(0.9531), _cell(1.0), _cell(-0.25), _cell(81.25)
        ('.95', '1.00', '-.25', '81.25')
    """
    if not math.isfinite(value):
        return MISSING
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"


def _figure(width: float, height: float) -> Figure:
    """An empty figure that shows in notebooks by itself and touches no global backend."""
    # Imported here: a run without a logger never pays for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """Notebooks ask a result for its picture; pyplot would draw it, and keep every figure."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    figure = Picture(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    return figure
