"""The retention matrix as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_sdpo.report.tables import MISSING, Matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heat_map(matrix: Matrix, *, title: str = "") -> Figure:
    """Draw the matrix: a row per stage, a column per task and probe, the score in every cell.

    Colours (cividis) stay apart for colour-blind readers, and the number is in the cell anyway. A frame marks the task
    a stage trained on, a line parts tasks from probes, undefined cells are grey. The scale is 0 to 1 where all scores
    lie in it, else the range of the scores; a loss has the shades of its column's range, the least loss the brightest.
    """
    # Imported here: a run without a logger never pays for it, and no global backend is touched.
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from lit_sdpo.report.charts.numbers import score_limits, shades

    columns = matrix.columns
    scores = np.array([[matrix.score(i, c) for c in columns] for i in range(len(matrix.rows))], dtype=float)
    scores = scores.reshape(len(matrix.rows), len(columns))
    losses = np.array([column in matrix.losses for column in columns], dtype=bool)
    low, high = score_limits(scores[:, ~losses])
    shaded = shades(scores, list(losses), (low, high))

    names = max((len(c) for c in matrix.headings), default=0)
    figure = Figure(figsize=(2.4 + 0.95 * len(columns), 1.2 + 0.12 * names + 0.55 * len(matrix.rows)), dpi=100)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("lightgrey")
    image = axes.imshow(np.ma.masked_invalid(shaded), cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for i in range(len(matrix.rows)):
        for j, column in enumerate(columns):
            value = scores[i, j]
            known_cell = bool(np.isfinite(value))
            dark = known_cell and (shaded[i, j] - low) / (high - low) < 0.55
            text = f"{value:.3f}" if known_cell else MISSING
            axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=10)
            if matrix.trained(i, column):
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="black", linewidth=3))
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="white", linewidth=1))
    if matrix.probes and matrix.tasks:
        axes.axvline(len(matrix.tasks) - 0.5, color="black", linewidth=2)
    axes.set_xticks(
        range(len(columns)), matrix.headings, rotation=0 if names <= 9 else 30, ha="center" if names <= 9 else "left"
    )
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(matrix.rows)), [row.title for row in matrix.rows])
    axes.tick_params(length=0)
    axes.set_ylabel("after stage")
    if title:
        axes.set_title(title)
    figure.colorbar(image, ax=axes, fraction=0.05)
    return figure
