"""Curves over stages or steps: one panel per number, one line per method, a band over the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lit_sdpo.report.charts.numbers import Array, Range, over_seeds, seed_range, smooth
from lit_sdpo.report.charts.style import GRID, INK, LABELS, QUIET, Look, legend, new_figure, short, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of one method: x [n] and one row of values per seed [seeds, n].
Curves = Mapping[str, tuple[Sequence[float], Array]]

#: Of a figure over steps, in inches.
WIDTH = 9.6
#: Numbers whose axis goes from 0 to 1.
SHARES = ("rollout/truncated", "rollout/reward")


@dataclass(frozen=True)
class Stage:
    """Where a stage begins on the axis of steps, and the task it trains."""

    start: int
    task: str


def by_stage(
    panels: Mapping[str, tuple[str, Curves, Range]], ticks: Sequence[str], looks: Mapping[str, Look]
) -> Figure:
    """Scores after each stage: a panel per group of tasks, the mean with its interval, seeds as dots.

    Args:
        panels: Panel title to what it shows, with its unit, the curves of its methods over numbers of stages, and the
            values that it can have.
        ticks: What stands below stage 0, 1, 2, ...
        looks: How methods are drawn.
    """
    shown = _shown(looks, (curves for _, curves, _ in panels.values()))
    with styled():
        figure, axes = new_figure(1, len(panels), width=max(6.4, 4.9 * len(panels)), height=4.3)
        for panel, (title, (ylabel, curves, possible)) in zip(axes, panels.items(), strict=True):
            spread = np.linspace(-0.13, 0.13, len(shown)) if len(shown) > 1 else [0.0]
            panel.axhline(0, color=QUIET.light, linewidth=1)
            for (method, look), shift in zip(shown.items(), spread, strict=True):
                if method in curves:
                    _points(panel, *curves[method], look, float(shift), possible)
            panel.set_title(title)
            panel.set_xticks(range(len(ticks)), ticks)
            panel.set_xlabel("after stage")
            panel.set_ylabel(ylabel)
        legend(figure, shown)
    return figure


def _shown(looks: Mapping[str, Look], panels: Iterable[Curves]) -> dict[str, Look]:
    drawn = {method for curves in panels for method in curves}
    return {method: look for method, look in looks.items() if method in drawn}


def _points(panel: Axes, x: Sequence[float], values: Array, look: Look, shift: float, possible: Range) -> None:
    at = np.asarray(x, dtype=float) + shift
    mean, low, high, count = over_seeds(values, possible)
    panel.plot(at, mean, color=look.colour, linestyle=look.dash, marker=look.marker, zorder=3)
    known = np.isfinite(low)
    if known.any():
        ends = np.stack([mean - low, high - mean])[:, known]
        panel.errorbar(at[known], mean[known], ends, fmt="none", ecolor=look.colour, elinewidth=1.1, capsize=2.5)
    if count.max(initial=0) > 1:
        for row in values:
            panel.plot(at, row, linestyle="none", marker=".", markersize=4, color=look.colour, alpha=0.5)


def over_steps(
    panels: Mapping[str, Curves],
    stages: Sequence[Stage],
    looks: Mapping[str, Look],
    *,
    smoothed: bool,
    columns: int = 1,
) -> Figure:
    """Logged numbers over optimizer steps, stages parted by lines.

    Args:
        panels: Name of the number (see :data:`~lit_sdpo.report.charts.style.LABELS`) to the curves of its methods.
        stages: Where they begin.
        looks: How methods are drawn.
        smoothed: Whether to show each seed's exponential mean, and the plain mean of the seeds faintly behind it;
            otherwise points are joined as they are.
        columns: Panels in a row.
    """
    from matplotlib.ticker import MaxNLocator

    shown = _shown(looks, panels.values())
    rows = math.ceil(len(panels) / columns)
    with styled():
        figure, axes = new_figure(rows, columns, width=WIDTH, height=(2.7 if columns == 1 else 3.1) * rows + 0.7)
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        for i, (panel, (name, curves)) in enumerate(zip(axes, panels.items(), strict=False)):
            for method, (x, values) in curves.items():
                place = list(shown).index(method), len(shown)
                _curve(panel, np.asarray(x, dtype=float), values, shown[method], place, stages if smoothed else None)
            panel.set_ylabel(LABELS.get(name, name))
            panel.margins(x=0.02)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            if name in SHARES:
                panel.set_ylim(-0.03, 1.03)
            _mark(panel, stages, named=i < columns, columns=columns)
            if i >= len(panels) - columns:
                panel.set_xlabel("optimizer step")
        legend(figure, shown)
        figure.align_ylabels()
    return figure


def _curve(
    panel: Axes, x: Array, values: Array, look: Look, place: tuple[int, int], stages: Sequence[Stage] | None
) -> None:
    shown, (index, total) = values, place
    if stages is not None:
        starts = [int(np.searchsorted(x, stage.start)) for stage in stages]
        shown = np.stack([smooth(row, starts) for row in values])
        panel.plot(x, over_seeds(values)[0], color=look.colour, linewidth=0.8, alpha=0.3, zorder=1)
    mean, *_, count = over_seeds(shown)
    if count.max(initial=0) > 1:
        panel.fill_between(x, *seed_range(shown), color=look.colour, alpha=max(0.06, 0.35 / (total + 1)), linewidth=0)
    every = max(1, len(x) // 8)
    first = 3 * index % every
    panel.plot(x, mean, color=look.colour, linestyle=look.dash, marker=look.marker, markevery=(first, every), zorder=3)


def _mark(panel: Axes, stages: Sequence[Stage], *, named: bool, columns: int) -> None:
    """A line where a stage begins, and its task above the panel."""
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(panel.transData, panel.transAxes)
    left, right = panel.get_xlim()
    if stages and stages[0].start < left:
        left = stages[0].start - 0.02 * (right - stages[0].start)
    letters = 9 * WIDTH / columns / (right - left)
    for k, stage in enumerate(stages):
        if k:
            panel.axvline(stage.start, color=QUIET.light, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        end = stages[k + 1].start if k + 1 < len(stages) else right
        if named:
            middle = (max(stage.start, left) + end) / 2
            task = short(stage.task, max(4, int(letters * (end - max(stage.start, left)))))
            panel.text(middle, 1.03, task, transform=place, ha="center", va="bottom", color=INK.light)
    panel.set_xlim(left, right)
    panel.grid(axis="x", color=GRID.light, alpha=0.5)
