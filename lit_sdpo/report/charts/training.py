"""What happened while training: entropy, divergence from the teacher, length, and how the weights moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lit_sdpo.functional import MatrixDrift
from lit_sdpo.report.charts.chart import Chart, Missing, Table
from lit_sdpo.report.charts.draw.lines import Curves, over_steps
from lit_sdpo.report.charts.numbers import over_seeds, seed_range, smooth
from lit_sdpo.report.charts.streams import Stream, extremes
from lit_sdpo.report.run import Run

DYNAMICS = ("rollout/entropy", "sdpo/divergence", "rollout/length", "rollout/truncated")
DRIFT = ("spectrum_shift", "left_angle", "mask_overlap", "mask_update")
SEED_BAND = "Band: lowest to highest seed."


def dynamics(stream: Stream) -> Chart | Missing:
    """Entropy, divergence, length and truncation over the steps (Figures 2b, 3 and 8)."""
    title = stream.title("How entropy, divergence and length move during training")
    panels: dict[str, Curves] = {}
    for tag in DYNAMICS:
        found = stream.over_steps(lambda run, tag=tag: dict(zip(*run.scalars(tag), strict=True)))  # type: ignore[misc]
        if found:
            panels[tag] = found
    if not panels:
        why = "no rollout/... was logged: SFT samples nothing; other methods log it with trainer.logger on"
        return Missing(stream.name("dynamics"), title, why)
    silent = [method for method in stream.runs if method not in panels.get("rollout/entropy", {})]
    starts = [stage.start for stage in stream.stages]
    rows = []
    for tag, curves in panels.items():
        for method, (steps, values) in curves.items():
            places = [int(np.searchsorted(steps, start)) for start in starts]
            smoothed = np.stack([smooth(row, places) for row in values])
            raw, *_ = over_seeds(values)
            mean, *_, count = over_seeds(smoothed)
            columns = zip(map(int, steps), raw, mean, *seed_range(smoothed), count, strict=True)
            rows += [[tag, method, *x] for x in columns]
    first = next(iter(panels))
    last = {m: float(over_seeds(values)[0][-1]) for m, (_, values) in panels[first].items()}
    return Chart(
        stream.name("dynamics"),
        title,
        f"{'Entropy' if first == DYNAMICS[0] else first} at the last step: {extremes(last, '.3f')}.",
        f"Line: mean over {stream.seeds} of an exponential mean (weight .8 on the past) that starts anew with every "
        f"stage; faint: the mean as logged. {SEED_BAND} A fast teacher shows as a late rise of entropy and divergence "
        "with shorter responses; divergence near 0 is no health where the score falls as well."
        + (f" Without curves, as they log none: {', '.join(silent)}." if silent else "")
        + " Corresponds to Figures 2b, 3 and 8 of the paper.",
        "Curves over the optimizer steps, a panel per number and a line per method.",
        Table(["number", "method", "step", "raw", "smoothed", "lowest_seed", "highest_seed", "seeds"], rows),
        over_steps(panels, stream.stages, stream.looks, smoothed=True),
    )


def weight_drift(stream: Stream) -> Chart | Missing:
    """The four drift curves, means over all matrices (Figure 7a and b)."""
    title = stream.title("How far the weights drift from where they began")
    panels = {}
    for field in DRIFT:
        found = stream.over_steps(lambda run, field=field: mean_drift(run, field))  # type: ignore[misc]
        if found:
            panels[field] = found
    if not panels:
        why = "no drift.csv: train with trainer.callbacks: [ParameterDrift], as configs/micro/measure.yaml does"
        return Missing(stream.name("weight-drift"), title, why)
    every = (row for runs in stream.runs.values() for run in runs for row in run.drift)
    kinds = sorted({row.kind for row in every if row.layer is not None})
    rows = [
        [field, kind, method, step, *numbers]
        for field in MatrixDrift._fields
        for kind in ("all", *kinds)
        for method, (steps, values) in stream.over_steps(lambda r, f=field, k=kind: mean_drift(r, f, k)).items()  # type: ignore[misc]
        for step, *numbers in zip(map(int, steps), over_seeds(values)[0], *seed_range(values), strict=True)
    ]
    last = {m: float(over_seeds(values)[0][-1]) for m, (_, values) in panels[DRIFT[0]].items()}
    return Chart(
        stream.name("weight-drift"),
        title,
        f"Shift of the singular values at the end: {extremes(last, '.2g')}.",
        f"Each point is the mean over the matrices of all layers and {stream.seeds}, against the weights at the start. "
        f"{SEED_BAND} Drift is up, except for the overlap of the principal masks, where it is down. The largest angle "
        "means little where neighbouring singular values are alike. The table behind it has every type of matrix. "
        "Corresponds to Figure 7a and b of the paper.",
        "Four panels of curves over the optimizer steps, a line per method.",
        Table(["number", "type", "method", "step", "mean", "lowest_seed", "highest_seed"], rows),
        over_steps(panels, stream.stages, stream.looks, smoothed=False, columns=2),
    )


def mean_drift(run: Run, field: str, kind: str = "all") -> Mapping[int, float]:
    """Mean of one number over a run's matrices of a type in all layers, by optimizer step."""
    found: dict[int, list[float]] = {}
    for row in run.drift:
        value = getattr(row.drift, field)
        if row.layer is not None and kind in ("all", row.kind) and np.isfinite(value):
            found.setdefault(row.step, []).append(value)
    return {step: float(np.mean(values)) for step, values in found.items()}
