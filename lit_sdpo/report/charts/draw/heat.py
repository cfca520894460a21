"""Tables of numbers on coloured cells: matrices and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_sdpo.report.charts.numbers import Array
from lit_sdpo.report.charts.style import FONT_SIZE, GRID, INK, QUIET, WIDEST, luminance, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Not among the theme's colours: the ink on a coloured cell is the same in both themes.
ON_DARK, ON_LIGHT = "#fdfdfd", "#0b0b0c"


def heat_maps(
    panels: Sequence[tuple[str, Array, Sequence[Sequence[str]]]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limits: tuple[float, float],
    reverse: bool = False,
    framed: Sequence[tuple[int, int]] = (),
    divide_at: int | None = None,
    ylabel: str = "",
) -> Figure:
    """Cells coloured by their number, with a text in each.

    Args:
        panels: Title, numbers [rows, columns] with nan where there is none, and the texts of the cells.
        rows: What stands left of the rows.
        columns: What stands above the columns.
        limits: Ends of the scale (cividis, dark to light).
        reverse: Whether low numbers are light.
        framed: Cells with a frame, as (row, column).
        divide_at: Column before which a line stands.
        ylabel: What the rows are.
    """
    names = max(map(len, columns), default=0)
    lines = max((t.count("\n") + 1 for _, _, texts in panels for row in texts for t in row), default=1)
    cell = max(
        0.8,
        0.105 * max((len(s) for _, _, texts in panels for r in texts for t in r for s in t.split("\n")), default=4),
    )
    one = 0.5 + 0.105 * max(map(len, rows), default=0) + cell * len(columns)
    across = 2 if len(panels) > 1 and 2 * one <= WIDEST else 1
    down = -(-len(panels) // across)
    height = down * (0.75 + 0.055 * names * (names > 9) + (0.32 + 0.2 * lines) * len(rows))
    with styled():
        figure, axes = new_figure(down, across, width=across * one, height=height + 0.2)
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        for i, (panel, (title, numbers, texts)) in enumerate(zip(axes, panels, strict=False)):
            _cells(panel, numbers, texts, limits, reverse)
            for row, column in framed:
                _frame(panel, row, column)
            if divide_at is not None and 0 < divide_at < len(columns):
                panel.axvline(divide_at, color=INK.light, linewidth=2.5)
            panel.set_xticks(
                np.arange(len(columns)) + 0.5,
                columns,
                rotation=0 if names <= 9 else 25,
                ha="center" if names <= 9 else "left",
            )
            panel.xaxis.tick_top()
            panel.set_yticks(np.arange(len(rows)) + 0.5, rows)
            panel.tick_params(length=0)
            panel.grid(visible=False)
            for spine in panel.spines.values():
                spine.set_visible(False)
            panel.set_title(title, pad=10)
            if i % across == 0:
                panel.set_ylabel(ylabel)
    return figure


def _cells(
    panel: Axes, numbers: Array, texts: Sequence[Sequence[str]], limits: tuple[float, float], reverse: bool
) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex, to_rgb
    from matplotlib.patches import Rectangle

    low, high = limits
    scale = colormaps["cividis"]
    for (i, j), value in np.ndenumerate(numbers):
        share = min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5
        share = 1 - share if reverse else share
        known = bool(np.isfinite(value))
        colour, ink = (
            (to_hex(scale(share)), ON_DARK if luminance(to_rgb(scale(share))) < 0.18 else ON_LIGHT)
            if known
            else (GRID.light, QUIET.light)
        )
        panel.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor=GRID.light, linewidth=1))
        head, _, rest = texts[i][j].partition("\n")
        panel.text(j + 0.5, i + (0.36 if rest else 0.5), head, ha="center", va="center", color=ink, fontsize=FONT_SIZE)
        if rest:
            panel.text(j + 0.5, i + 0.71, rest, ha="center", va="center", color=ink, fontsize=FONT_SIZE - 2)
    panel.set_xlim(0, numbers.shape[1])
    panel.set_ylim(numbers.shape[0], 0)


def _frame(panel: Axes, row: int, column: int) -> None:
    """A double frame, dark and light, which shows on any cell."""
    from matplotlib.patches import Rectangle

    for colour, width in ((ON_LIGHT, 3.2), (ON_DARK, 1.2)):
        panel.add_patch(
            Rectangle((column + 0.04, row + 0.05), 0.92, 0.9, fill=False, edgecolor=colour, linewidth=width)
        )
