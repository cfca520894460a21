"""Which stream leaves room for a remedy: ``python -m benchmarks.headroom RUNS``, over the runs of a tuning sweep.

For each stream and method the rate with the largest area under the curve of average accuracy, and what is lost at it;
docs/recipe.md has the rule that these numbers are for. Curves are means over the seeds, so that what is called lost is
no single evaluation's chance.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_sdpo.report.curves import evaluations
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study

#: Points of earlier tasks or prior ability that a baseline loses somewhere in a stream with room.
ROOM = 8.0


class Curve(NamedTuple):
    """Scores along a run or the mean of several.

    Attributes:
        steps: Optimizer steps of the evaluations, [E].
        scores: Percent by task or probe, each [E].
        ends: Step of the end of the last stage that trained a task before it came again, by task: each end of one.
    """

    steps: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    ends: dict[str, list[int]]


def curve(runs: Sequence[Run]) -> Curve:
    """The mean curve of runs of one setting."""
    columns = runs[0].matrix.columns
    taken = [evaluations(run) for run in runs]
    scores = 100 * np.asarray([[[x.scores[task] for task in columns] for x in found] for found in taken]).mean(axis=0)
    ends: dict[str, list[int]] = {}
    for row in runs[0].matrix.rows[1:]:
        ends.setdefault(row.label, []).append(row.step or 0)
    steps = np.asarray([x.step for x in taken[0]], dtype=float)
    return Curve(steps, {task: scores[:, place] for place, task in enumerate(columns)}, ends)


def area(found: Curve) -> float:
    """Mean of the average accuracy over the steps of a stream, in points (trapezoids)."""
    average = np.mean([found.scores[task] for task in found.ends], axis=0)
    return float(np.trapezoid(average, found.steps) / (found.steps[-1] - found.steps[0]))


def lost(found: Curve) -> dict[str, float]:
    """The most that each task falls below its own stage's end before the task's next stage, and the prior ability."""
    falls = {}
    for task, ends in found.ends.items():
        spans = itertools.pairwise([*ends, np.inf])
        values = found.scores[task]
        falls[task] = max(
            float(np.max(values[found.steps == end][0] - values[(found.steps >= end) & (found.steps < until)]))
            for end, until in spans
        )
    if "prior" in found.scores:
        falls["prior"] = float(found.scores["prior"][0] - found.scores["prior"].min())
    return falls


def main() -> None:
    """Print a table with the best rate of each method in each stream."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    study = Study.read([parser.parse_args().runs])
    settings: dict[str, list[tuple[str, Curve]]] = {}
    for method in study.methods:
        place, _, rate = method.rpartition("/")
        settings.setdefault(place, []).append((rate, curve(study.runs(method))))
    print("| stream, method | rate | seeds | area | end | most lost | room |\n|---|---|---:|---:|---:|---|---|")
    for place, rates in settings.items():
        best = max(rates, key=lambda rate: area(rate[1]))
        for rate, found in rates:
            falls = lost(found)
            worst = max(falls, key=lambda name: falls[name])
            end = float(np.mean([found.scores[task][-1] for task in found.ends]))
            room = ("yes" if falls[worst] >= ROOM else "no") if rate == best[0] else ""
            seeds = len(study.runs("/".join(filter(None, (place, rate)))))
            print(
                f"| {place} | {rate} | {seeds} | {area(found):.1f} | {end:.1f} | {worst} {falls[worst]:.1f} | {room} |"
            )
    print(json.dumps({place: max(rates, key=lambda rate: area(rate[1]))[0] for place, rates in settings.items()}))


if __name__ == "__main__":
    main()
