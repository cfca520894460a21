"""What a stage changed: the prior ability, the task that it trained, and tasks by their distance from that."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lit_sdpo.report.run import Run

#: What tasks at intermediate distance are compared with.
OUTER: tuple[Literal["near", "far"], ...] = ("near", "far")


def _change(run: Run, scores: Tensor, column: str, after: int, before: int) -> Tensor:
    """Points by which the score on a column changed between two rows."""
    columns = run.matrix.columns
    if column not in columns or not 0 <= before < after < scores.shape[1]:
        return scores.new_full((len(scores),), torch.nan)
    k = columns.index(column)
    return 100 * run.matrix.sign(column) * (scores[:, after, k] - scores[:, before, k])


def prior_change(run: Run, scores: Tensor) -> Tensor:
    """Points by which the probe ``prior`` changed since before training, [S]."""
    return _change(run, scores, "prior", len(run.matrix.rows) - 1, 0)


def first_gain(run: Run, scores: Tensor) -> Tensor:
    """Points by which the first task changed in its own stage, [S]."""
    label = run.matrix.rows[1].label if len(run.matrix.rows) > 1 else ""
    return _change(run, scores, label, 1, 0)


def interference(outer: Literal["near", "far"]) -> Callable[[Run, Tensor], Tensor]:
    """Points by which tasks at intermediate distance changed less well in a stage than near, or far, ones.

    Of all pairs of a stage and a column that it did not train; near are those up to a third of the largest distance of
    any such pair, far those beyond two thirds. A change is signed, ``before - after``: cut off at 0 it would be a loss
    where nothing is lost but draws differ. An inverted U of forgetting over distance makes both numbers positive.
    """

    def number(run: Run, scores: Tensor) -> Tensor:
        found: dict[str, list[Tensor]] = {"near": [], "intermediate": [], "far": []}
        pairs = [
            (distance, i, k)
            for i, row in enumerate(run.matrix.rows)
            for k, column in enumerate(run.matrix.columns)
            if i
            and column != row.label
            and not math.isnan(distance := run.distances.get(row.label, {}).get(column, math.nan))
        ]
        largest = max((distance for distance, _, _ in pairs), default=0.0)
        for distance, i, k in pairs:
            place = "near" if 3 * distance <= largest else "intermediate" if 3 * distance <= 2 * largest else "far"
            found[place].append(100 * run.matrix.sign(run.matrix.columns[k]) * (scores[:, i - 1, k] - scores[:, i, k]))
        if not found["intermediate"] or not found[outer]:
            return scores.new_full((len(scores),), torch.nan)
        return torch.stack(found["intermediate"]).mean(0) - torch.stack(found[outer]).mean(0)

    return number
