"""What is compared between runs: each measure is one number of a run, with draws over prompts where it has prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median
from typing import Literal

import torch
from torch import Tensor

from lit_sdpo.functional import MatrixDrift
from lit_sdpo.report.run import Run, Series
from lit_sdpo.report.stage_changes import OUTER, first_gain, interference, prior_change
from lit_sdpo.report.summary import resampled

#: Possible values of a share, of a change of a share, of a change in points, and of what is never negative.
SHARE, CHANGE, POINTS, POSITIVE = (0.0, 1.0), (-1.0, 1.0), (-100.0, 100.0), (0.0, math.inf)
#: A mean score in training that counts as having learned the task.
REWARD = 0.75
#: Steps of a running mean or median of what is logged in every step.
WINDOW = 5


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Exactly one of ``from_scores`` and ``from_run`` is set. Both give nan where the run does not have what they need,
    and infinity where it never reaches what is counted.

    Attributes:
        name: Short, as in files.
        title: For a reader.
        unit: Of the number; a ratio has none when compared.
        better: 1 where more is better, -1 where less is, 0 where it is neither.
        from_scores: From the run and scores in the layout of its matrix, [S, rows, columns] to [S].
        from_run: From the run alone.
        ratio: Two runs are compared by their ratio, not their difference; values are positive.
        possible: Least and largest value that the number can have.
        at_most: Name of the measure that bounds the same quantity from above, where this one bounds it from below.
    """

    name: str
    title: str
    unit: str
    better: Literal[-1, 0, 1]
    from_scores: Callable[[Run, Tensor], Tensor] | None = None
    from_run: Callable[[Run], float] | None = None
    ratio: bool = False
    possible: tuple[float, float] = (-math.inf, math.inf)
    at_most: str = ""

    def value(self, run: Run) -> float:
        """The number of a run."""
        if self.from_scores is None:
            assert self.from_run is not None
            return self.from_run(run)
        return float(self.from_scores(run, scores_of(run))[0])


def scores_of(run: Run) -> Tensor:
    """The run's matrix as numbers, [1, rows, columns]."""
    matrix = run.matrix
    cells = [[matrix.score(i, column) for column in matrix.columns] for i in range(len(matrix.rows))]
    return torch.tensor(cells, dtype=torch.float64).reshape(1, len(matrix.rows), len(matrix.columns))


# --------------------------------------------------------------------------------------------------- from the matrix
def _summary(name: str) -> Callable[[Run, Tensor], Tensor]:
    return lambda run, scores: resampled(run.matrix, scores, name)


@lru_cache(maxsize=64)
def own_score(task: str) -> Measure:
    """Score on a task at the end of the first stage that trained on it (the paper's Current)."""

    def score(run: Run, scores: Tensor) -> Tensor:
        matrix = run.matrix
        own = [i for i in range(len(matrix.rows)) if matrix.trained(i, task)]
        if not own:
            return scores.new_full((len(scores),), torch.nan)
        return scores[:, own[0], matrix.columns.index(task)]

    return Measure(
        f"own_score/{task}", f"score on {task} after its own stage", "score", 1, from_scores=score, possible=SHARE
    )


# ------------------------------------------------------------------------------------------------- from other files
def _last_drift(field: str) -> Callable[[Run], float]:
    """Mean of a number over the matrices of all layers at the last measurement."""

    def number(run: Run) -> float:
        last = max((row.step for row in run.drift), default=0)
        return _mean(getattr(row.drift, field) for row in run.drift if row.step == last and row.layer is not None)

    assert field in MatrixDrift._fields
    return number


def _last_response(name: str) -> Callable[[Run], float]:
    """Mean of a number over the tasks of the stream at the last stage; of nothing before the last stage."""

    def number(run: Run) -> float:
        stage, tasks = run.matrix.rows[-1].stage, run.matrix.tasks
        rows = [row for row in run.responses if row.stage == stage and row.task in tasks and name in row.numbers]
        return _mean(row.numbers[name].value for row in rows)

    return number


def _last_artifact(name: str) -> Callable[[Run], float]:
    """Mean of a number over the tasks of the stream in the last evaluation."""

    def number(run: Run) -> float:
        last = max((row.step for row in run.artifacts), default=0)
        rows = [row for row in run.artifacts if row.step == last and row.task in run.matrix.tasks]
        return _mean(row.numbers.get(name, math.nan) for row in rows)

    return number


def _last_scalar(tag: str) -> Callable[[Run], float]:
    return lambda run: (run.scalars(tag).values or [math.nan])[-1]


def _mean_scalar(tag: str) -> Callable[[Run], float]:
    return lambda run: _mean(run.scalars(tag).values)


def stages_of(run: Run, tag: str) -> Iterator[Series]:
    """A scalar by stage, with steps counted from the beginning of each; stages without it are left out."""
    steps, values = run.scalars(tag)
    ends = [row.step for row in run.matrix.rows]
    for start, end in itertools.pairwise(ends):
        if start is None or end is None:
            continue
        inside = [(step - start, value) for step, value in zip(steps, values, strict=True) if start <= step < end]
        if inside:
            yield Series([step for step, _ in inside], [value for _, value in inside])


def running(values: Sequence[float], how: Callable[[Sequence[float]], float] = fmean) -> list[float]:
    """Mean or median of each value and those before it, :data:`WINDOW` at most.

    Example:
        >>> running([1.0, 2.0, 6.0])
        [1.0, 1.5, 3.0]
    """
    return [how(values[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(values))]


def score_tag(run: Run) -> str:
    """Where a run logged how well it did in training: the verifier's own score, or the reward if there is only that.

    Further rewards differ between methods, and a penalty among them moves a reward where nothing was learned.
    """
    own = "rollout/reward/verifier"
    return own if own in run.tags else "rollout/reward"


def steps_to_reward(run: Run, reward: float = REWARD) -> float:
    """Steps of a stage until the running mean of its training score reaches a value, mean over the stages.

    Infinite where a stage never reaches it: its last step would make a method that fails early a fast one.
    """
    needed = []
    for steps, values in stages_of(run, score_tag(run)):
        reached = [step for step, value in zip(steps, running(values), strict=True) if value >= reward]
        needed.append(float(reached[0]) if reached else math.inf)
    return _mean(needed)


def _end(tag: str) -> Callable[[Run], float]:
    """Median of the last steps of a run."""
    return lambda run: median(run.scalars(tag).values[-WINDOW:] or [math.nan])


def _rise(tag: str) -> Callable[[Run], float]:
    """How many times its lowest value in a stage a signal ends it at, geometric mean over the stages."""

    def number(run: Run) -> float:
        rises = []
        for stage in stages_of(run, tag):
            smooth = running(stage.values, median)[WINDOW - 1 :]
            if smooth and min(smooth) > 0:
                rises.append(math.log(smooth[-1] / min(smooth)))
        return math.exp(_mean(rises))

    return number


def _through(tag: str) -> Callable[[Run], float]:
    """Last over first of a signal in a stage, geometric mean over the stages."""

    def number(run: Run) -> float:
        changes = []
        for stage in stages_of(run, tag):
            smooth = running(stage.values, median)[WINDOW - 1 :]
            if smooth and min(smooth[0], smooth[-1]) > 0:
                changes.append(math.log(smooth[-1] / smooth[0]))
        return math.exp(_mean(changes))

    return number


def _mean(values: Iterator[float] | Sequence[float]) -> float:
    """Mean of what is known; nan of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


_ALL = (
    Measure(
        "average_accuracy", "average accuracy at the end", "score", 1, _summary("average_accuracy"), possible=SHARE
    ),
    Measure(
        "learning_accuracy",
        "accuracy after each task's own stage",
        "score",
        1,
        _summary("learning_accuracy"),
        possible=SHARE,
    ),
    Measure("bwt", "backward transfer", "score", 1, _summary("bwt"), possible=CHANGE),
    Measure("forgetting", "forgetting", "score", -1, _summary("forgetting"), possible=CHANGE),
    Measure(
        "relative_forgetting",
        "forgetting relative to the base",
        "%",
        -1,
        _summary("relative_forgetting"),
        possible=POSITIVE,
    ),
    Measure("ood_change", "change of the probes", "points", 1, _summary("ood_change"), possible=POINTS),
    Measure("loss_change", "rise of the loss on fixed texts", "nats", -1, _summary("loss_change")),
    Measure("prior_change", "change of the prior ability", "points", 1, prior_change, possible=POINTS),
    Measure("first_gain", "gain on the first task in its stage", "points", 1, first_gain, possible=POINTS),
    *(
        Measure(
            f"interference_{outer}",
            f"forgetting at intermediate less that at {outer} distances",
            "points",
            -1,
            interference(outer),
            possible=(-200, 200),
        )
        for outer in OUTER
    ),
    Measure(
        "relative_norm",
        "drift of all weights (relative norm)",
        "",
        -1,
        from_run=_last_scalar("drift/parameters/relative_norm"),
        ratio=True,
    ),
    Measure("nss", "shift of the singular values (NSS)", "", -1, from_run=_last_drift("spectrum_shift"), ratio=True),
    Measure(
        "mask_update", "update of the principal mask", "share", -1, from_run=_last_drift("mask_update"), possible=SHARE
    ),
    Measure(
        "mask_update_absolute",
        "update of the principal mask by more than a threshold",
        "share",
        -1,
        from_run=_last_drift("mask_update_absolute"),
        possible=SHARE,
    ),
    Measure(
        "mask_overlap",
        "overlap of the principal masks",
        "share",
        1,
        from_run=_last_drift("mask_overlap"),
        possible=SHARE,
    ),
    Measure(
        "left_angle", "largest principal angle", "degrees", -1, from_run=_last_drift("left_angle"), possible=(0, 90)
    ),
    Measure("forward_kl", "KL(base ‖ policy)", "nats", -1, from_run=_last_response("forward_kl"), ratio=True),
    Measure(
        "excess_kl",
        "KL beyond what success needs",
        "nats",
        -1,
        from_run=_last_response("excess_kl"),
        possible=POSITIVE,
        at_most="excess_kl_at_most",
    ),
    Measure(
        "excess_kl_at_most",
        "KL beyond what success needs, at most",
        "nats",
        -1,
        from_run=_last_response("excess_kl_at_most"),
        possible=POSITIVE,
    ),
    Measure(
        "similarity",
        "similarity of responses to the base's",
        "cosine",
        1,
        from_run=_last_response("similarity"),
        possible=CHANGE,
    ),
    Measure(
        "alignment",
        "alignment of steps with earlier tasks",
        "cosine",
        1,
        from_run=_mean_scalar("alignment/mean"),
        possible=CHANGE,
    ),
    Measure(
        "steps_to_reward",
        f"steps of a stage to a training reward of {REWARD}",
        "steps",
        -1,
        from_run=steps_to_reward,
        possible=POSITIVE,
    ),
    Measure("cpu_seconds", "CPU time of the run", "s", -1, from_run=lambda run: run.cpu_seconds, ratio=True),
    Measure(
        "leakage",
        "responses with another task's format",
        "share",
        -1,
        from_run=_last_artifact("leakage"),
        possible=SHARE,
    ),
    Measure(
        "repetition",
        "repeated 4-grams in a response",
        "share",
        -1,
        from_run=_last_artifact("repetition"),
        possible=SHARE,
    ),
    Measure("entropy", "entropy of sampled tokens at the end", "nats", 0, from_run=_end("rollout/entropy"), ratio=True),
    Measure("length", "length of completions at the end", "tokens", 0, from_run=_end("rollout/length"), ratio=True),
    Measure(
        "entropy_rise", "late rise of the entropy in a stage", "", -1, from_run=_rise("rollout/entropy"), ratio=True
    ),
    Measure(
        "divergence_rise",
        "late rise of the teacher's distance in a stage",
        "",
        -1,
        from_run=_rise("sdpo/divergence"),
        ratio=True,
    ),
    Measure("length_change", "length through a stage", "", 0, from_run=_through("rollout/length"), ratio=True),
)
#: Every measure by name.
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
