"""Evaluations inside stages, which are no rows of the matrix: what a run keeps of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lit_sdpo.report.items import Samples, compact, plain

#: In the folder of a run that was evaluated inside its stages.
FILE = "curves.jsonl"


class Evaluation(NamedTuple):
    """One evaluation.

    Attributes:
        stage: 0 before training, k inside stage k or at its end.
        step: Optimizer step.
        scores: By task or probe.
        items: Scores of the samples of every prompt, by task or probe; empty where nobody has them.
    """

    stage: int
    step: int
    scores: Mapping[str, float]
    items: Mapping[str, Samples]


def evaluation_lines(evaluations: Iterable[Evaluation]) -> str:
    """One JSON object a line for each evaluation and task; an abstention is ``null``.

    Example:
        >>> print(evaluation_lines([Evaluation(1, 5, {"math": 0.5}, {"math": {"a": [1.0], "b": [0.0]}})]), end="")
        {"stage": 1, "step": 5, "task": "math", "score": 0.5, "scores": {"a": 1.0, "b": 0.0}}
    """
    lines = []
    for found in evaluations:
        for task, score in found.scores.items():
            scores = {item: compact(samples) for item, samples in found.items.get(task, {}).items()}
            head = {"stage": found.stage, "step": found.step, "task": task, "score": plain(score)}
            lines.append(json.dumps(head | {"scores": scores}, ensure_ascii=False) + "\n")
    return "".join(lines)
