"""Points of methods: gain and forgetting against a distance with a quadratic fit, and one number against another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_sdpo.report.charts.numbers import Array, quadratic_fit
from lit_sdpo.report.charts.style import WIDEST, Look, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Mean and both ends of an interval; ends are nan where there is none.
Interval = tuple[float, float, float]


def against_distance(
    panels: Mapping[str, Mapping[str, tuple[Array, Array]]], xlabel: str, ylabel: str, looks: Mapping[str, Look]
) -> Figure:
    """Points of every method over the distance, and a fit of order 2 with its 95 % band where five points or more are.

    Args:
        panels: Title to method to distances [n] and values [n].
        xlabel: What the distance is.
        ylabel: What the values are, with their unit.
        looks: How methods are drawn.
    """
    drawn = {method for points in panels.values() for method in points}
    shown = {method: look for method, look in looks.items() if method in drawn}
    with styled():
        figure, axes = new_figure(1, len(panels), width=max(6.4, 4.9 * len(panels)), height=4.3)
        for panel, (title, points) in zip(axes, panels.items(), strict=True):
            for method, look in shown.items():
                if method not in points:
                    continue
                x, y = points[method]
                panel.plot(x, y, linestyle="none", marker=look.marker, color=look.colour, alpha=0.7, mec="none")
                at = np.linspace(min(x), max(x), 60)
                if (fit := quadratic_fit(x, y, at)) is not None:
                    panel.plot(at, fit[0], color=look.colour, linestyle=look.dash)
                    panel.fill_between(at, fit[1], fit[2], color=look.colour, alpha=0.09, linewidth=0)
            known = [value for _, y in points.values() for value in y]
            top = max(known, default=0.0)
            panel.set_ylim(-0.06 * (top or 1), 1.15 * (top or 1))
            panel.set_title(title)
            panel.set_xlabel(xlabel)
        axes[0].set_ylabel(ylabel)
        legend(figure, shown)
    return figure


def against_number(
    panels: Mapping[str, Mapping[str, tuple[Interval, Interval]]], xlabel: str, looks: Mapping[str, Look]
) -> Figure:
    """A point with both intervals for every method.

    Args:
        panels: What stands upwards, with its unit, to method to the numbers across and upwards.
        xlabel: What stands across, with its unit.
        looks: How methods are drawn.
    """
    shown = {method: look for method, look in looks.items() if any(method in points for points in panels.values())}
    with styled():
        figure, axes = new_figure(1, len(panels), width=min(WIDEST, 4.2 * len(panels)), height=4.4)
        for panel, (ylabel, points) in zip(axes, panels.items(), strict=True):
            for method, numbers in points.items():
                look = looks[method]
                (x, *across), (y, *upwards) = numbers
                xerr, yerr = (_lengths(at, ends) for at, ends in ((x, across), (y, upwards)))
                panel.errorbar(
                    x, y, yerr, xerr, marker=look.marker, color=look.colour, elinewidth=0.9, capsize=2, mec="none"
                )
            panel.set_xlabel(xlabel)
            panel.set_ylabel(ylabel)
        legend(figure, shown, lines=False)
    return figure


def _lengths(at: float, ends: Sequence[float]) -> Array | None:
    low, high = ends
    return np.array([[at - low], [high - at]]) if math.isfinite(low) and math.isfinite(high) else None
