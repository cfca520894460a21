"""Distributions per method and stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_sdpo.report.charts.style import INK, WIDEST, Look, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Dots beside each other in one violin; more of them hide it and weigh down the page.
MOST_DOTS = 100


def violins(
    values: Mapping[str, Sequence[Sequence[float]]],
    groups: Sequence[str],
    floor: float | None,
    ylabel: str,
    looks: Mapping[str, Look],
) -> Figure:
    """A violin per method and group with its median, the values as dots; fewer than four values are dots only.

    More than :data:`MOST_DOTS` values are a violin alone, with the method's marker on its median.

    Args:
        values: Method to one sequence of values per group.
        groups: What stands below each group.
        floor: Where a line says what no change looks like.
        ylabel: What is shown, with its unit.
        looks: How methods are drawn.
    """
    shown = {method: look for method, look in looks.items() if method in values}
    width = 0.84 / max(1, len(shown))
    with styled():
        size = min(WIDEST, max(6.4, 1.8 + 0.42 * len(shown) * len(groups)))
        figure, (axes,) = new_figure(width=size, height=4.4)
        for i, (method, look) in enumerate(shown.items()):
            for j, some in enumerate(values[method]):
                at = j + (i - (len(shown) - 1) / 2) * width
                found = np.asarray([x for x in some if np.isfinite(x)], dtype=float)
                if not found.size:
                    continue
                if found.size >= 4 and np.ptp(found) > 1e-9:
                    drawn: Any = axes.violinplot([found], [at], widths=width * 0.92, showextrema=False)
                    for body in drawn["bodies"]:
                        body.set(facecolor=look.colour, edgecolor=look.colour, alpha=0.3)
                middle = float(np.median(found))
                few = found.size <= MOST_DOTS
                dots = found if few else np.array([middle])  # one at least, so that colour never stands alone
                spread = np.linspace(-0.22, 0.22, dots.size) * width if dots.size > 1 else [0.0]
                axes.plot(at + np.asarray(spread), dots, linestyle="none", marker=look.marker, mec="none",
                          markersize=3.6 if few else 7, color=look.colour, alpha=0.8 if few else 1,
                          zorder=2 if few else 3)  # fmt: skip
                axes.plot([at - 0.33 * width, at + 0.33 * width], [middle, middle], color=INK.light, linewidth=2)
        if floor is not None:
            axes.axhline(floor, color=INK.light, linewidth=1.3, linestyle=(0, (4, 2)), zorder=0)
            axes.text(
                1.005, floor, "base\nagainst\nbase", transform=axes.get_yaxis_transform(), va="center", fontsize=9
            )
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("after stage")
        axes.set_ylabel(ylabel)
        legend(figure, shown, lines=False)
    return figure
