"""Scores of single prompts: intervals, pass@k, what was lost and won, and the changes that can be seen at all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional import (
    difference_interval,
    mcnemar,
    mean_interval,
    mean_with_interval,
    pass_at_k,
    smallest_detectable_change,
    transitions,
    unchanged_transitions,
)
from lit_sdpo.functional.continual import gain_and_loss, relative_change
from lit_sdpo.functional.intervals import Interval
from lit_sdpo.report.tables import Matrix

#: Scores of each sample of each prompt of a task, by the prompt's id.
Samples = Mapping[str, Sequence[float]]
#: The same by row of the matrix and task.
Items = Mapping[int, Mapping[str, Samples]]
Record = dict[str, Any]


def means(samples: Samples) -> dict[str, float]:
    """Mean score of each prompt.

    Example:
        >>> means({"a": [1.0, 0.0]})
        {'a': 0.5}
    """
    return {item: sum(scores) / len(scores) for item, scores in samples.items()}


def known(samples: Samples) -> dict[str, list[float]]:
    """Without abstentions (nan) and prompts that have nothing else.

    Example:
        >>> known({"a": [1.0, math.nan], "b": [math.nan]})
        {'a': [1.0]}
    """
    scored = {item: [x for x in scores if not math.isnan(x)] for item, scores in samples.items()}
    return {item: scores for item, scores in scored.items() if scores}


def plain(x: float) -> float | None:
    """JSON has no nan."""
    return x if math.isfinite(x) else None


def compact(scores: Sequence[float]) -> float | list[float | None] | None:
    """The score of one sample, or the list of several, for JSON."""
    found = [plain(x) for x in scores]
    return found[0] if len(found) == 1 else found


def score_records(matrix: Matrix, items: Items) -> list[Record]:
    """One record per stage and task: score with its 95 % interval, pass@k, and the change from the base in percent.

    ``relative_change`` at a task's own stage is the paper's Current, at the last stage its Last; ``gain`` and
    ``forgetting`` are its positive and negative part (arXiv 2607.01763).
    """
    records = []
    for i, row in enumerate(matrix.rows):
        for column in matrix.columns:
            score, base = matrix.score(i, column), torch.tensor(matrix.score(0, column))
            is_loss = column in matrix.losses
            gain, loss = gain_and_loss(base, torch.tensor(score), mode="min" if is_loss else "max")
            record: Record = {
                "stage": row.stage,
                "step": row.step,
                "task": column,
                "trained": int(matrix.trained(i, column)),
                "score": score,
                "undefined": matrix.reason(i, column) or "",
                "relative_change": float(relative_change(base, torch.tensor(score))),
                "gain": float(gain),
                "forgetting": float(loss),
            }
            if samples := items.get(i, {}).get(column):
                record |= _item_numbers(samples, is_loss)
            records.append(record)
    return records


def _item_numbers(samples: Samples, loss: bool) -> Record:
    share, count = _shares(samples, samples)
    low, high, method = _unbounded(share) if loss else mean_interval(share)
    record: Record = {"low": low, "high": high, "interval": method, "items": len(share), "samples": int(count.min())}
    if loss:
        return record
    correct = torch.tensor([sum(score >= 1 for score in scores) for scores in samples.values()])
    k = 2
    while k <= count.min():
        record[f"pass@{k}"] = float(pass_at_k(correct, count, k).mean())
        k *= 2
    return record


def _unbounded(values: Tensor) -> Interval:
    """Student's interval of a mean, also where all values happen to lie between 0 and 1."""
    _, low, high = mean_with_interval(values)
    return Interval(low, high, "no spread" if math.isnan(low) else "t")


def change_records(matrix: Matrix, items: Items, choices: Mapping[str, int]) -> list[Record]:
    """What became of each task's prompts: since its own stage, since the base model and since the stage before.

    Prompts are matched by id; those that only one of the evaluations has are left out. ``lost`` and ``won`` are the
    shares that went 1→0 and 0→1 (:func:`~lit_sdpo.functional.continual.transitions`), ``lost_true`` and ``won_true``
    what of them guessing does not explain, ``by_sampling`` what goes in each direction if nothing changed, from the
    spread of the earlier samples. ``mcnemar`` is the p-value for one sample of 0 or 1 per prompt. Intervals are of the
    change, paired, at 95 %.

    Args:
        matrix: The matrix.
        items: Scores of the prompts.
        choices: Options per question, of multiple-choice tasks.
    """
    records = []
    for i, row in enumerate(matrix.rows):
        for column in matrix.columns:
            for label, j in _earlier(matrix, i, column).items():
                before, after = items.get(j, {}).get(column), items.get(i, {}).get(column)
                if before and after and (shared := [item for item in before if item in after]):
                    head = {"stage": row.stage, "step": row.step, "task": column, "since": label, "since_stage": j}
                    loss = column in matrix.losses
                    records.append(head | _change(before, after, shared, choices.get(column), loss))
    return records


def _earlier(matrix: Matrix, row: int, column: str) -> dict[str, int]:
    """Rows to compare with, by what they are; each once."""
    own = [i for i in range(row) if matrix.trained(i, column)]
    wanted = {"own stage": own[-1]} if own else {}
    wanted |= {"base": 0, "previous stage": row - 1}
    rows: dict[str, int] = {}
    for label, i in wanted.items():
        if 0 <= i < row and i not in rows.values():
            rows[label] = i
    return rows


def _change(before: Samples, after: Samples, shared: Sequence[str], choices: int | None, loss: bool) -> Record:
    p, count = _shares(before, shared)
    q, count_after = _shares(after, shared)
    low, high, method = _unbounded(q - p) if loss else difference_interval(p, q)
    record: Record = {
        "items": len(shared),
        "samples": int(min(count.min(), count_after.min())),
        "before": float(p.mean()),
        "after": float(q.mean()),
        "change": float((q - p).mean()),
        "low": low,
        "high": high,
        "interval": method,
    }
    if loss or not all(0 <= x <= 1 for share in (p, q) for x in (share.min(), share.max())):
        return record  # no shares of correct answers
    moved = transitions(p, q, choices)
    record |= {"lost": float(moved["forgetting"]), "won": float(moved["backward_transfer"])}
    record["by_sampling"] = float(unchanged_transitions(p, count))
    if choices is not None:
        record |= {name: float(moved[key]) for name, key in _TRUE.items()}
    if bool(((p == 0) | (p == 1)).all() and ((q == 0) | (q == 1)).all()) and record["samples"] == 1:
        record["mcnemar"] = mcnemar(int((p > q).sum()), int((q > p).sum()))
    return record


_TRUE = {"by_guessing": "chance", "lost_true": "forgetting_true", "won_true": "backward_transfer_true"}


def _shares(samples: Samples, shared: Sequence[str] | Samples) -> tuple[Tensor, Tensor]:
    """Mean score and number of samples of some prompts, [n] each."""
    rows = [samples[item] for item in shared]
    share = torch.tensor([sum(scores) / len(scores) for scores in rows], dtype=torch.float64)
    return share, torch.tensor([len(scores) for scores in rows])


class Detectable(NamedTuple):
    """The smallest change of a task's score that a paired comparison finds 8 times in 10, at the 95 % level.

    Attributes:
        prompts: Prompts of an evaluation.
        samples: Samples per prompt.
        rate: Mean score.
        measured: Whether the rate is measured, or supposed.
        change: The change.
    """

    prompts: int
    samples: int
    rate: float
    measured: bool
    change: float

    def __str__(self) -> str:
        """One line."""
        how = "measured" if self.measured else "assumed"
        return f"{self.change:.3f}  ({self.prompts} prompts x {self.samples} samples, rate {self.rate:.2f} {how})"


def detectable(samples: Samples) -> Detectable | None:
    """From the scores of an evaluation; ``None`` for scores outside of [0, 1].

    The spread of a prompt's samples is measured where there are two or more, else supposed to be that of one chance for
    all prompts, which is the worst case.
    """
    share, count = _shares(samples, samples)
    if not len(share) or share.min() < 0 or share.max() > 1:
        return None
    variance = float(unchanged_transitions(share, count))
    if not variance > 0:  # one sample, or all alike
        smoothed = (float(share.sum()) + 1) / (len(share) + 2)
        variance = smoothed * (1 - smoothed)
    size = len(share), int(count.min())
    return Detectable(*size, float(share.mean()), True, smallest_detectable_change(*size, variance))


def detectable_at(prompts: int, samples: int, rate: float = 0.5) -> Detectable:
    """Before any evaluation, from its size; a rate of one half is the worst case.

    Example:
        >>> print(detectable_at(200, 4))
        0.070  (200 prompts x 4 samples, rate 0.50 assumed)
    """
    change = smallest_detectable_change(prompts, samples, rate * (1 - rate))
    return Detectable(prompts, samples, rate, False, change)


def records_csv(records: Sequence[Record]) -> str:
    """Full precision; a column for every key of any record, empty where a record has none or it is nan."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(keys)
    for record in records:
        values = (record.get(key) for key in keys)
        writer.writerow(["" if x is None or (isinstance(x, float) and math.isnan(x)) else x for x in values])
    return buffer.getvalue()
