"""Two methods compared where they are equally good at the task in training, whenever each of them gets there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from lit_sdpo.report.comparisons import Effect, effect
from lit_sdpo.report.measures import WINDOW, Measure, score_tag
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study

#: Training rewards that differ by no more count as the same.
TOLERANCE = 0.05
#: Values of a run by optimizer step, since the start of the run.
Curve = Callable[[Run], Mapping[int, float]]


def _drift(run: Run) -> Mapping[int, float]:
    return dict(run.tags.get("drift/parameters/relative_norm", ()))


def _kl(run: Run) -> Mapping[int, float]:
    return dict(run.tags.get("drift/responses/current/forward_kl", ()))


def _lost(run: Run) -> Mapping[int, float]:
    """Points lost on everything but the first task since before training, mean over tasks and probes."""
    others = [column for column in run.matrix.columns if column != run.matrix.rows[1].label]
    curves = [dict(run.tags.get(f"val/{column}/accuracy", ())) for column in others]
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    if 0 not in steps:
        return {}
    return {step: 100 * fmean(curve[0] - curve[step] for curve in curves) for step in steps if step > 0}


#: What is compared, by name: how, and from which values.
CURVES: dict[str, tuple[Measure, Curve]] = {
    name: (Measure(f"equal_success/{name}", f"{title} at equal training reward", unit, -1, ratio=ratio), curve)
    for name, title, unit, ratio, curve in (
        ("relative_norm", "drift of all weights (relative norm)", "", True, _drift),
        ("forward_kl", "KL(base ‖ policy) on the task", "nats", True, _kl),
        ("lost", "loss on other tasks", "points", False, _lost),
    )
}


@dataclass(frozen=True)
class EqualSuccess:
    """A measure of two methods, each at the first measurement where its training reward is that of the other.

    Attributes:
        measure: What is compared.
        more: The first method.
        less: The second one.
        effect: ``more - less`` or ``more / less``, over the seeds where the two can be matched.
        reward: The mean training reward there.
        steps: Seed to the steps of both.
        unmatched: Seed to why the two cannot be matched.
    """

    measure: Measure
    more: str
    less: str
    effect: Effect
    reward: float = math.nan
    steps: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    unmatched: Mapping[int, str] = field(default_factory=dict)


def at_equal_success(name: str, more: Sequence[Run], less: Sequence[Run], tolerance: float = TOLERANCE) -> EqualSuccess:
    """Compare two methods in the first stage where both have the same training reward.

    The training reward at a step is the mean of the five steps before it. Each method counts at its first measurement
    where that is within the tolerance of the best that both reach at a measurement; the two rewards must be within the
    tolerance of each other as well. Measurements inside a stage need ``ParameterDrift.every_n_steps`` or
    ``data.eval_every``: where there are only those at its end, two methods match only if they end alike.

    Args:
        name: One of :data:`CURVES`.
        more: Runs of one method.
        less: Runs of the other one.
        tolerance: Between rewards that count as equal.
    """
    measure, curve = CURVES[name]
    partners = {run.seed: run for run in less}
    values: dict[Run, float] = {}
    steps: dict[int, tuple[int, int]] = {}
    rewards: list[float] = []
    unmatched: dict[int, str] = {}
    for run in more:
        if run.seed not in partners:
            continue
        pair = run, partners[run.seed]
        curves = [curve(each) for each in pair]
        known = [_rewards(each, points) for each, points in zip(pair, curves, strict=True)]
        if not all(known):
            unmatched[run.seed] = "training rewards or measurements of the first stage are missing"
            continue
        level = min(max(points.values()) for points in known)
        first, second = (min(s for s, r in points.items() if r >= level - tolerance) for points in known)
        if abs(known[0][first] - known[1][second]) > tolerance:
            unmatched[run.seed] = f"no measurement at rewards within {tolerance:g} of each other"
            continue
        steps[run.seed] = first, second
        rewards += [known[0][first], known[1][second]]
        values |= {pair[0]: curves[0][first], pair[1]: curves[1][second]}
    names = more[0].method if more else "", less[0].method if less else ""
    if not steps:
        reasons = "; ".join(dict.fromkeys(unmatched.values())) or "no seed that both have"
        return EqualSuccess(measure, *names, Effect(null=float(measure.ratio), missing=reasons), unmatched=unmatched)
    there = Measure(
        measure.name, measure.title, measure.unit, measure.better, from_run=values.__getitem__, ratio=measure.ratio
    )
    matched = [run for run in more if run in values], [run for run in less if run in values]
    return EqualSuccess(there, *names, effect(there, *matched), fmean(rewards), steps, unmatched)


def all_at_equal_success(study: Study) -> list[EqualSuccess]:
    """All pairs of methods in all of :data:`CURVES`; those that cannot be matched say why.

    Args:
        study: The runs.
    """
    pairs = [(study.runs(one), study.runs(other)) for one, other in itertools.combinations(study.methods, 2)]
    return [at_equal_success(name, *pair) for name in CURVES for pair in pairs]


def _rewards(run: Run, points: Mapping[int, float]) -> dict[int, float]:
    """Mean verifier's score in training, over the steps before each measurement in the first stage."""
    logged = dict(run.tags.get(score_tag(run), ()))
    end = run.matrix.rows[1].step or 0
    found = {}
    for step in points:
        before = [logged[s] for s in range(max(0, step - WINDOW), step) if s in logged]
        if 0 < step <= end and before:
            found[step] = fmean(before)
    return found
