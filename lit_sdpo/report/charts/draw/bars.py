"""Bars per task and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_sdpo.report.charts.numbers import ANY, Array, Range, over_seeds
from lit_sdpo.report.charts.style import INK, PAGE, QUIET, WIDEST, Look, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grouped_bars(
    values: Mapping[str, Array],
    groups: Sequence[str],
    ylabel: str,
    looks: Mapping[str, Look],
    possible: Range = ANY,
) -> Figure:
    """A group of bars per task with a bar per method: the mean with the marker, its interval, and the seeds as dots.

    Args:
        values: Method to one row per seed, [seeds, groups].
        groups: What stands below each group.
        ylabel: What is shown, with its unit.
        looks: How methods are drawn.
        possible: Values that what is shown can have.
    """
    shown = {method: look for method, look in looks.items() if method in values}
    width = 0.82 / max(1, len(shown))
    with styled():
        size = min(WIDEST, max(6.4, 1.8 + 0.34 * len(shown) * len(groups) + 0.5 * len(groups)))
        figure, (axes,) = new_figure(width=size, height=4.4)
        axes.axhline(0, color=INK.light, linewidth=1)
        for i, (method, look) in enumerate(shown.items()):
            mean, low, high, count = over_seeds(values[method], possible)
            at = np.arange(len(groups)) + (i - (len(shown) - 1) / 2) * width
            axes.bar(at, np.nan_to_num(mean), width * 0.9, color=look.colour)
            axes.plot(at, mean, linestyle="none", marker=look.marker, color=look.colour, mec=PAGE.light, zorder=4)
            known = np.isfinite(low)
            if known.any():
                ends = np.stack([mean - low, high - mean])[:, known]
                axes.errorbar(at[known], mean[known], ends, fmt="none", ecolor=INK.light, elinewidth=1.3, capsize=3)
            if count.max(initial=0) > 1:
                for row in values[method]:
                    axes.plot(at, row, linestyle="none", marker="o", markersize=3.2, color=INK.light, mec="none")
            for x, n in zip(at, count, strict=True):
                if not n:
                    axes.text(x, 0, "-", ha="center", va="bottom", color=QUIET.light)
        axes.set_xticks(range(len(groups)), groups)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel(ylabel)
        legend(figure, shown, lines=False)
    return figure
