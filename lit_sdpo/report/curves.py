"""What a run's evaluations inside stages say of each task, with intervals over its prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lit_sdpo.functional import continual_curves as measures
from lit_sdpo.report.evaluations import Evaluation
from lit_sdpo.report.items import Record, known, means
from lit_sdpo.report.run import Run
from lit_sdpo.report.summary import interval_over_prompts

#: Measures that are never negative.
BOUNDED = ("stability_gap", "windowed_forgetting", "windowed_plasticity")
#: Evaluations of a window in windowed forgetting and plasticity.
WINDOW = 10


@dataclass(frozen=True, eq=False)
class Curves:
    """Scores of a stream's tasks over all evaluations of a run.

    Attributes:
        tasks: That of each stage, N.
        stages: Of each evaluation, int64 [E].
        steps: Its optimizer step, int64 [E].
        scores: nan where a task was not evaluated, float64 [N, E].
        items: Mean score of each prompt, by task, E.
    """

    tasks: Sequence[str]
    stages: Tensor
    steps: Tensor
    scores: Tensor
    items: Sequence[Mapping[str, Mapping[str, float]]]


def evaluations(run: Run) -> list[Evaluation]:
    """All evaluations of a run in their order: at the ends of its stages, and inside them."""
    ends = [
        Evaluation(row.stage, row.step, row.scores, run.items.get(i, {}))
        for i, row in enumerate(run.matrix.rows)
        if row.step is not None
    ]
    taken = {found.step for found in ends}
    return sorted([*ends, *(x for x in run.inside if x.step not in taken)], key=lambda x: (x.step, x.stage))


def curves_of(run: Run) -> Curves | None:
    """The curves of a run; ``None`` where it was evaluated at the ends of its stages alone."""
    rows = run.matrix.rows
    tasks = [row.label for row in rows[1:]]
    if not run.inside or not set(tasks) <= set(run.matrix.tasks):
        return None
    found = evaluations(run)
    return Curves(
        tasks,
        torch.tensor([x.stage for x in found]),
        torch.tensor([x.step for x in found]),
        torch.tensor([[x.scores.get(task, math.nan) for x in found] for task in tasks], dtype=torch.float64),
        [{task: means(known(samples)) for task, samples in x.items.items()} for x in found],
    )


def curve_records(run: Run) -> list[Record]:
    """One record for each measure of the run's curves and each task, and for those of all tasks together.

    A number depends on each score by its derivative: an interval is that of the scores which make the number (the
    lowest one, the two ends of the largest fall), over the prompts that their evaluations share. It does not know that
    they were the extreme ones of many. Without prompts, or where a bound of 0 decides, there is none.

    Args:
        run: Needs evaluations inside its stages; else there are no records.
    """
    curves = curves_of(run)
    if curves is None:
        return []
    records = []
    for name, measure in _measures(curves).items():
        with torch.inference_mode(False), torch.enable_grad():
            scores = curves.scores.clone().requires_grad_()
            values = measure(scores)
            slopes = [_slopes(value, scores) for value in values.reshape(-1)]
        together = values.dim() == 0
        for j, (value, slope) in enumerate(zip(values.detach().reshape(-1).tolist(), slopes, strict=True), 1):
            head = {"measure": name, "stage": "" if together else j, "task": "" if together else curves.tasks[j - 1]}
            record: Record = {**head, "value": value, "evaluations": len(curves.steps)}
            has_one = not math.isnan(value) and not (name in BOUNDED and value == 0)
            interval = _interval(curves, value, slope, 0.0 if name in BOUNDED else -math.inf) if has_one else None
            records.append(record if interval is None else record | {"low": interval[0], "high": interval[1]})
    return records


def _measures(curves: Curves) -> dict[str, Callable[[Tensor], Tensor]]:
    """From scores [N, E] to one number for each task, or to one of all."""
    stages = curves.stages
    return {
        "min_accuracy": lambda scores: measures.min_accuracy(scores, stages),
        "stability_gap": lambda scores: measures.stability_gap(scores, stages),
        "windowed_forgetting": partial(measures.windowed_forgetting, window=WINDOW),
        "windowed_plasticity": partial(measures.windowed_plasticity, window=WINDOW),
        "learning_curve_area": lambda scores: measures.learning_curve_area(scores, stages, curves.steps),
        "average_min_accuracy": lambda scores: measures.average_min_accuracy(scores, stages),
        "worst_case_accuracy": lambda scores: measures.worst_case_accuracy(scores, stages),
    }


def _slopes(value: Tensor, scores: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(scores)
    (slopes,) = torch.autograd.grad(value, scores, retain_graph=True, allow_unused=True)
    return torch.zeros_like(scores) if slopes is None else slopes.nan_to_num(0.0)


def _interval(curves: Curves, value: float, slopes: Tensor, least: float) -> tuple[float, float] | None:
    """Over prompts; a task with several stages has one set of them."""
    columns = []
    for task in dict.fromkeys(curves.tasks):
        own = [j for j, name in enumerate(curves.tasks) if name == task]
        prompts = [items.get(task, {}) for items in curves.items]
        columns.append((prompts, slopes[own].sum(0), False))  # what is trained is no loss
    return interval_over_prompts(value, columns, least)


def by_place(runs: Sequence[Run]) -> dict[tuple[str, str], list[Record]]:
    """The runs' records by measure and by stage and task, those of all tasks last."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in itertools.chain.from_iterable(map(curve_records, runs)):
        place = f"{record['stage']} {record['task']}".strip() or "all tasks"
        found.setdefault((place, record["measure"]), []).append(record)
    return found
