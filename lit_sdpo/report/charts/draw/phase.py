"""Where claims hold: a cell per pair of settings with verdict, estimate, interval and seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_sdpo.report.charts.style import (
    FAILS,
    FONT_SIZE,
    GRID,
    HOLDS,
    INK,
    OPEN,
    PAGE,
    QUIET,
    WIDEST,
    new_figure,
    short,
    styled,
)
from lit_sdpo.report.claims.table import DOES_NOT, NOT_TESTED, REPLICATES, UNDECIDED, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Sign, colour and hatch of a verdict: none of them stands alone.
SIGNS: dict[Verdict, str] = {REPLICATES: "✔", DOES_NOT: "✘", UNDECIDED: "?", NOT_TESTED: "○"}
FILLS: dict[Verdict, str] = {
    REPLICATES: HOLDS.light,
    DOES_NOT: FAILS.light,
    UNDECIDED: OPEN.light,
    NOT_TESTED: PAGE.light,
}
HATCHES: dict[Verdict, str] = {REPLICATES: "xxxx", DOES_NOT: "////", UNDECIDED: "....", NOT_TESTED: ""}


@dataclass(frozen=True)
class Spot:
    """What was found at one pair of settings.

    Attributes:
        verdict: Whether the claim holds there.
        estimate: The number that decides it; nan where there is none.
        low: Lower end of its 95 % interval.
        high: Upper end.
        seeds: How many seeds it rests on.
    """

    verdict: Verdict
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0


@dataclass(frozen=True)
class Panel:
    """One claim.

    Attributes:
        title: What is claimed, and the number in the cells.
        x: Settings along the horizontal axis, in order.
        y: Settings along the vertical axis, from below.
        spots: By values of x and y; pairs without one were not run.
    """

    title: str
    x: Sequence[str]
    y: Sequence[str]
    spots: Mapping[tuple[str, str], Spot]


def phase_diagram(panels: Sequence[Panel], *, xlabel: str, ylabel: str) -> Figure:
    """A panel per claim.

    Args:
        panels: The claims.
        xlabel: What x is.
        ylabel: What y is.
    """
    from matplotlib.patches import Patch

    widest, tallest = max(len(p.x) for p in panels), max(len(p.y) for p in panels)
    names = max(len(line) for p in panels for b in p.y for line in b.split("\n"))
    one = 0.7 + 0.085 * names + 1.32 * widest
    across = 2 if len(panels) > 1 and 2 * one <= WIDEST else 1
    down = -(-len(panels) // across)
    letters = int(13 * 1.32 * widest)
    lines = max(len(textwrap.wrap(p.title, letters)) for p in panels)
    with styled():
        height = down * (0.75 + 0.2 * lines + 0.82 * tallest) + 0.5
        figure, axes = new_figure(down, across, width=max(6.4, across * one), height=height)
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        for place, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
            for j, a in enumerate(panel.x):
                for i, b in enumerate(panel.y):
                    _cell(axis, j, i, panel.spots.get((a, b)))
            axis.set(xlim=(0, len(panel.x)), ylim=(0, len(panel.y)), xlabel=xlabel)
            axis.set_title("\n".join(textwrap.wrap(panel.title, letters)), loc="left")
            axis.set_ylabel(ylabel if place % across == 0 else "")
            axis.set_xticks([j + 0.5 for j in range(len(panel.x))], panel.x)
            axis.set_yticks([i + 0.5 for i in range(len(panel.y))], [short(b, 60) for b in panel.y])
            axis.tick_params(length=0)
            axis.grid(visible=False)
        handles = [Patch(facecolor=FILLS[v], edgecolor=QUIET.light, hatch=HATCHES[v]) for v in SIGNS]
        figure.legend(
            handles, [f"{SIGNS[v]} {v}" for v in SIGNS], loc="outside lower center", ncols=4, handleheight=1.4
        )
    return figure


def _cell(axis: Axes, x: int, y: int, spot: Spot | None) -> None:
    from matplotlib.patches import Rectangle

    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    if spot is None:
        axis.text(x + 0.5, y + 0.5, "not run", color=QUIET.light, fontsize=FONT_SIZE - 2, **centred)
        return
    fill = FILLS[spot.verdict]
    axis.add_patch(Rectangle((x, y), 1, 1, facecolor=fill, edgecolor=GRID.light))
    axis.add_patch(
        Rectangle((x, y), 0.07, 1, facecolor=fill, edgecolor=QUIET.light, hatch=HATCHES[spot.verdict], linewidth=0)
    )
    known = math.isfinite(spot.estimate)
    head = f"{SIGNS[spot.verdict]} {spot.estimate:.3g}" if known else SIGNS[spot.verdict]
    axis.text(x + 0.53, y + 0.68, head, fontsize=FONT_SIZE + 1, color=INK.light, **centred)
    below = f"[{spot.low:.2g}, {spot.high:.2g}]\n{spot.seeds} seed{'s' * (spot.seeds != 1)}" if known else spot.verdict
    axis.text(x + 0.53, y + 0.3, below, fontsize=FONT_SIZE - 2, color=INK.light, **centred)
