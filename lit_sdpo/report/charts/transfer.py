"""Gain and forgetting against the distance between the task trained and the task evaluated."""

from __future__ import annotations

import numpy as np

from lit_sdpo.report.charts.chart import Chart, Missing, Table
from lit_sdpo.report.charts.draw.scatter import against_distance
from lit_sdpo.report.charts.numbers import over_seeds, quadratic_fit
from lit_sdpo.report.charts.streams import LEAST_BASE, Stream

CHANGE = "percent of the score\nbefore the stage"


def against_mmd(stream: Stream) -> Chart | Missing:
    """What each stage did to each task, over the MMD between the two (Figure 5)."""
    title = stream.title("Gain and forgetting over the distance between tasks")
    distances = next((run.distances for runs in stream.runs.values() for run in runs if run.distances), None)
    if not distances:
        why = "no prompt_distance.csv: train with trainer.callbacks: [ResponseDrift]"
        return Missing(stream.name("transfer"), title, why)
    rows, points, small = [], {}, 0
    for method in stream.runs:
        means = np.stack([over_seeds(part)[0] for part in stream.scores(method).transpose(1, 0, 2)])
        found = []
        for i, row in enumerate(stream.matrix.rows[1:], 1):
            for j, column in enumerate(stream.matrix.columns):
                distance = distances.get(row.label, {}).get(column, np.nan)
                before, after = means[i - 1, j], means[i, j]
                small += bool(before < LEAST_BASE)
                if before >= LEAST_BASE and np.isfinite(after) and np.isfinite(distance):
                    change = stream.matrix.sign(column) * 100 * (after - before) / before
                    found.append((distance, max(0.0, change), max(0.0, -change)))
                    rows.append([method, row.stage, row.label, column, *found[-1]])
        if found:
            points[method] = np.array(found).T
    if not points:
        why = "no score before a stage is .05 or more, so no relative change can be read: start from a stronger model"
        return Missing(stream.name("transfer"), title, why)
    panels = {name: {m: (p[0], p[k]) for m, p in points.items()} for k, name in enumerate(("gain", "forgetting"), 1)}
    fitted = all(quadratic_fit(p[0], p[1], p[0]) is not None for p in points.values())
    return Chart(
        stream.name("transfer"),
        title,
        f"{_peaks(points)}.",
        f"A point is one stage's effect on one task: the relative change of its score during the stage (mean over "
        f"{stream.seeds}), split into its positive and its negative part, over the squared MMD between the prompts of "
        "the two. Line and band: least squares of order 2 over a method's points with the 95 % band of its mean"
        + ("" if fitted else ", where there are points enough")
        + f". {small} pairs with a score below .05 before the stage are left out. Points of one stream depend on each "
        "other, so the band is a guide. Corresponds to Figure 5 of the paper, which trains all tasks from the base.",
        "Two scatter plots over the distance, for gain and for forgetting, with a fitted curve per method.",
        Table(["method", "stage", "trained", "evaluated", "squared_mmd", "gain", "forgetting"], rows),
        against_distance(panels, "squared MMD between prompts (no unit)", CHANGE, stream.looks),
    )


def _peaks(points: dict[str, np.ndarray]) -> str:
    """At which distance each method forgot most."""
    found = []
    for method, (distance, _, lost) in points.items():
        worst = int(np.argmax(lost))
        text = f"at {distance[worst]:.2f} ({lost[worst]:.1f} %)" if lost[worst] > 0 else "nowhere"
        found.append(f"{method} {text}")
    return "Most forgetting: " + ", ".join(found)
