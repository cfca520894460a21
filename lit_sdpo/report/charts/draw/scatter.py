"""Gain and forgetting against the distance between tasks, each with a quadratic fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lit_sdpo.report.charts.numbers import Array, quadratic_fit
from lit_sdpo.report.charts.style import Look, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
