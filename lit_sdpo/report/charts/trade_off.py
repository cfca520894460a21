"""How fast a method learns against what it keeps."""

from __future__ import annotations

import math

import numpy as np

from lit_sdpo.report.charts.chart import Chart, Missing, Table
from lit_sdpo.report.charts.draw.scatter import Interval, against_number
from lit_sdpo.report.charts.numbers import over_seeds
from lit_sdpo.report.charts.streams import Stream
from lit_sdpo.report.measures import MEASURES, REWARD, Measure

SPEED = "steps_to_reward"
KEPT = ("average_accuracy", "ood_change", "prior_change")


def speed_and_retention(stream: Stream) -> Chart | Missing:
    """Steps to a training reward against what is there at the end of the stream."""
    name, title = stream.name("speed-and-retention"), stream.title("How fast it learns and what it keeps")
    if len(stream.runs) < 2:
        return Missing(name, title, "a trade-off needs two methods or more: give runs of another method too")
    speed = _of(stream, MEASURES[SPEED])
    if not speed:
        never = any(math.isinf(MEASURES[SPEED].value(run)) for runs in stream.runs.values() for run in runs)
        why = f"every method has a run and stage that never reach a training reward of {REWARD}"
        return Missing(
            name, title, why if never else "no rewards of training steps: train with the rollout callback and a logger"
        )
    panels: dict[str, dict[str, tuple[Interval, Interval]]] = {}
    rows: list[list[str | float]] = []
    for measure in map(MEASURES.__getitem__, KEPT):
        kept = _of(stream, measure)
        both = [method for method in stream.runs if method in speed and method in kept]
        if not both:
            continue
        panels[f"{measure.title}\n({measure.unit})"] = {method: (speed[method], kept[method]) for method in both}
        rows += [[method, measure.name, *speed[method], *kept[method]] for method in both]
    if not panels:
        return Missing(name, title, "no score at the end of the stream")
    across = MEASURES[SPEED]
    return Chart(
        name,
        title,
        f"{_best(speed, rows)}.",
        f"Across: {across.title}, mean over the stages; a method with a run and stage that never reach it has no "
        f"point. Left and up is better. Mean over {stream.seeds} with 95 % t-intervals, drawn from three seeds on. "
        "The paper has no such figure; it asks the question of the paper's section 5.",
        "Scatter plots of what is kept over the steps that learning takes, a point per method.",
        Table(["method", "kept", "steps", "steps_low", "steps_high", "value", "low", "high"], rows),
        against_number(panels, f"steps to a training\nreward of {REWARD}", stream.looks),
    )


def _of(stream: Stream, measure: Measure) -> dict[str, Interval]:
    """Mean over the seeds with its interval, for each method whose runs all have a value or none."""
    found = {}
    for method, runs in stream.runs.items():
        values = [[measure.value(run)] for run in runs]
        if any(math.isinf(value) for (value,) in values):
            continue
        mean, low, high, _ = (part[0] for part in over_seeds(values, measure.possible))
        if math.isfinite(mean):
            found[method] = float(mean), float(low), float(high)
    return found


def _best(speed: dict[str, Interval], rows: list[list[str | float]]) -> str:
    """The fastest method, and the one that ends best."""
    fastest = min(speed, key=lambda method: speed[method][0])
    ends = {str(row[0]): float(row[5]) for row in rows if row[1] == rows[0][1]}
    best = max(ends, key=lambda method: ends[method])
    share = np.mean([value <= ends[fastest] for value in ends.values()]) if fastest in ends else math.nan
    placed = f", which ends at or above {share:.0%} of the methods" if math.isfinite(share) else ""
    return f"Fastest: {fastest} ({speed[fastest][0]:.1f} steps){placed}; best at the end: {best} ({ends[best]:.3f})"
