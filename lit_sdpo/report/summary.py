"""The continual-learning numbers of a retention matrix whose tasks may repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from lit_sdpo.functional import (
    bootstrap_means,
    continual,
    difference_interval,
    mean_with_interval,
    stratified_interval,
    student_t_quantile,
    sum_of_intervals,
)
from lit_sdpo.functional.intervals import are_scores
from lit_sdpo.report.tables import Matrix


class _Number(NamedTuple):
    """How a number comes from some rows and columns of the matrix; or why it cannot."""

    rows: Sequence[int] = ()
    columns: Sequence[str] = ()
    compute: Callable[[Tensor], Tensor] = torch.mean
    missing: str = ""
    #: What the number would be without a bound at 0, for its derivative.
    unbounded: Callable[[Tensor], Tensor] | None = None


def summarize(matrix: Matrix) -> dict[str, float]:
    """What was learned and what was lost, at the matrix's last row.

    With ``R[i][j]`` the score on task j after stage i, row 0 the base, N the last row, ``first(j)`` and ``last(j)`` the
    first and the last stage up to N that trained on j, ``change(j) = 100 (R[N][j] - R[0][j]) / R[0][j]``:

    - ``average_accuracy``: mean over all tasks of ``R[N][j]``, whether trained yet or not.
    - ``learning_accuracy``: mean over the trained tasks of ``R[last(j)][j]``.
    - ``anytime_accuracy``: mean over the stages i = 1..N of the mean over the tasks trained by then of ``R[i][j]``.
    - ``bwt``: mean of ``R[N][j] - R[last(j)][j]`` over tasks with ``last(j) < N``.
    - ``forgetting``: mean of ``max_i R[i][j] - R[N][j]`` over the same tasks, where i runs through ``last(k)`` of them.
    - ``fwt``: mean of ``R[first(j) - 1][j] - R[0][j]`` over the tasks after the first.
    - ``relative_gain``, ``relative_forgetting``: mean over all tasks of ``max(0, change)`` and ``max(0, -change)``, in
      percent of the base score (arXiv 2607.01763).
    - ``ood_change``: ``100 mean(R[N][p] - R[0][p])`` over the probes p, in percentage points of a score in [0, 1].
    - ``ood_relative_change``: mean over the probes of ``change``, in percent (the paper's OOD macro average).
    - ``loss_change``: mean of ``R[N][p] - R[0][p]`` over the probes p that are losses, which are in neither of the two
      above; only where there are some. A rise is forgetting.

    Of tasks that are losses less is better: their scores and changes enter transfer, gain and forgetting with the sign
    reversed (``mode="min"`` of :mod:`lit_sdpo.functional.continual`), the averages as they are.

    A task's own stage is its last one: a task that comes back is judged by what it had when it was last trained. Where
    every task has one stage, the numbers are those of :mod:`lit_sdpo.functional.continual`.

    Returns:
        The numbers; nan where a cell that is needed is undefined or no task qualifies (see :func:`undefined`).

    Example:
        >>> from lit_sdpo.report.tables import MatrixRow
        >>> rows = [("base", 0.0, 0.0), ("a", 0.5, 0.1), ("b", 0.6, 0.7)]
        >>> rows = [MatrixRow(i, name, i, {"a": a, "b": b}) for i, (name, a, b) in enumerate(rows)]
        >>> numbers = summarize(Matrix(["a", "b"], [], rows))
        >>> [round(numbers[name], 3) for name in ("average_accuracy", "bwt", "fwt", "forgetting")]
        [0.65, 0.1, 0.1, -0.1]
    """
    return {name: _value(matrix, number) for name, number in _numbers(matrix).items()}


def undefined(matrix: Matrix) -> dict[str, str]:
    """Why each number that is nan is undefined: the first cell that it needs and that is missing, or what it lacks.

    Example:
        >>> undefined(Matrix(["a"], [], []))["bwt"]
        'nothing was evaluated'
    """
    return {
        name: number.missing or _missing_cell(matrix, number)
        for name, number in _numbers(matrix).items()
        if math.isnan(_value(matrix, number))
    }


def summary_intervals(
    matrix: Matrix, items: Mapping[int, Mapping[str, Mapping[str, float]]]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the numbers, over the prompts of every task, paired over the stages.

    A number depends on each cell by its derivative, so a prompt counts with the sum of its scores in all rows, times
    their derivatives. The tasks' own intervals (:func:`~lit_sdpo.functional.intervals.mean_interval` where more is
    better in all rows, else :func:`~lit_sdpo.functional.intervals.difference_interval`) are put together as those of
    independent numbers.

    Args:
        matrix: The matrix.
        items: Mean score of each prompt, by row, task or probe, and prompt.

    Returns:
        Ends of the intervals of numbers that are defined and whose tasks have prompts.
    """
    intervals = {}
    for name, number in _numbers(matrix).items():
        if math.isnan(value := _value(matrix, number)):
            continue
        slopes = _slopes(matrix, number)
        columns = [
            ([items.get(i, {}).get(column, {}) for i in number.rows], slopes[:, k], column in matrix.losses)
            for k, column in enumerate(number.columns)
        ]
        interval = interval_over_prompts(value, columns, -math.inf if number.unbounded is None else 0.0)
        if interval is not None:
            intervals[name] = interval
    return intervals


def interval_over_prompts(
    value: float, columns: Sequence[tuple[Sequence[Mapping[str, float]], Tensor, bool]], least: float = -math.inf
) -> tuple[float, float] | None:
    """95 % interval of a number by its derivatives, over the prompts of every task.

    Args:
        value: The number.
        columns: Of each task, the mean score of each prompt in its evaluations, the number's derivatives by the task's
            score in each of them, and whether the scores are losses.
        least: The smallest value that the number can have.

    Returns:
        Its ends; ``None`` where a task that counts has no prompt that its evaluations share.
    """
    parts = [_part(rows, slopes, loss) for rows, slopes, loss in columns if slopes.any()]
    if not parts or not all(len(part.plus) for part in parts):
        return None
    low, high = _ends(parts)
    centre = math.fsum(part.mean for part in parts)
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return max(least, value + low - centre), max(least, value + high - centre)


def _slopes(matrix: Matrix, number: _Number) -> Tensor:
    """Derivative of a number by each of its cells, also where an evaluation has switched derivatives off."""
    with torch.inference_mode(False), torch.enable_grad():
        scores = _scores(matrix, number).requires_grad_()
        return torch.autograd.grad((number.unbounded or number.compute)(scores), scores)[0]


class _Part(NamedTuple):
    """What the prompts of a task add to a number, [n] each, and take from it, at most ``scale``; or only add.

    Losses have no bounds, also where all of them happen to lie between 0 and 1.
    """

    plus: Tensor
    minus: Tensor
    scale: float
    adds: bool
    loss: bool

    @property
    def mean(self) -> float:
        return float((self.plus - self.minus).mean())


def _part(rows: Sequence[Mapping[str, float]], slopes: Tensor, loss: bool) -> _Part:
    """From the prompts that all rows have which count; empty where there are none."""
    used = [(row, float(slope)) for row, slope in zip(rows, slopes, strict=True) if slope != 0]
    shared = sorted(set.intersection(*(set(row) for row, _ in used)))
    plus, minus = torch.zeros(2, len(shared), dtype=torch.float64)
    for row, slope in used:
        side = plus if slope > 0 else minus
        side += abs(slope) * torch.tensor([row[item] for item in shared], dtype=torch.float64)
    scale = max(float(slopes.clamp(min=0).sum()), float((-slopes).clamp(min=0).sum()))
    return _Part(plus, minus, scale, bool((slopes >= 0).all()), loss)


def _ends(parts: Sequence[_Part]) -> tuple[float, float]:
    """Ends of the interval of the sum of the parts."""
    scores = [part.plus / part.scale for part in parts]
    if all(part.adds and not part.loss for part in parts) and all(map(are_scores, scores)):
        total = math.fsum(part.scale for part in parts)
        low, high, _ = stratified_interval(scores, [part.scale / total for part in parts])
        return total * low, total * high
    return sum_of_intervals([part.mean for part in parts], [_part_ends(part) for part in parts])


def _part_ends(part: _Part) -> tuple[float, float]:
    """Ends of the interval of a part."""
    if part.loss:
        _, low, high = mean_with_interval(part.plus - part.minus)
        return low, high
    found = difference_interval(part.minus / part.scale, part.plus / part.scale)
    return part.scale * found.low, part.scale * found.high


def cell_draws(
    matrix: Matrix, items: Mapping[int, Mapping[str, Mapping[str, float]]], *, resamples: int = 2000
) -> Tensor:
    """The matrix, drawn again: each task's prompts once per resample, the same ones in all rows.

    A column's draws depend on its name and number of prompts alone, so two matrices whose evaluations had the same
    prompts are drawn alike, whatever the order of their stages. Draws of few prompts are too close together, and are
    stretched around their mean until their percentiles are as far apart as Student's interval (Hesterberg 2015).

    Args:
        matrix: The matrix.
        items: Mean score of each prompt, by row, task or probe, and prompt.
        resamples: S.

    Returns:
        Scores, [S, rows, columns]; nan where no prompts are known.
    """
    drawn = torch.full((resamples, len(matrix.rows), len(matrix.columns)), torch.nan, dtype=torch.float64)
    for k, column in enumerate(matrix.columns):
        rows = [i for i in range(len(matrix.rows)) if items.get(i, {}).get(column)]
        shared = set.intersection(*(set(items[i][column]) for i in rows)) if rows else set()
        if shared:
            every = [[items[i][column][item] for i in rows] for item in sorted(shared)]
            scores = torch.tensor(every, dtype=torch.float64)
            means = bootstrap_means(scores, resamples, seed=crc32(column.encode()))
            stretched = scores.mean(0) + few_prompts(len(shared)) * (means - scores.mean(0))
            bounded = column not in matrix.losses and are_scores(scores)
            drawn[:, rows, k] = stretched.clamp(0, 1) if bounded else stretched
    return drawn


def few_prompts(n: int) -> float:
    """By how much the percentiles of n prompts drawn again are too close together; 1.3 for 8 prompts, 1.03 for 64."""
    return student_t_quantile(0.975, n - 1) / NormalDist().inv_cdf(0.975) * math.sqrt(n / (n - 1)) if n > 1 else 1.0


def resampled(matrix: Matrix, scores: Tensor, name: str) -> Tensor:
    """A number of :func:`summarize` for other scores in the same rows and columns.

    Args:
        matrix: Says which stage trained which task.
        scores: [S, rows, columns].
        name: Which number.

    Returns:
        [S]; nan where the number is undefined, or the matrix has nothing it is about.
    """
    number = _numbers(matrix).get(name)
    if number is None or number.missing:
        return scores.new_full((len(scores),), torch.nan)
    columns = [matrix.columns.index(column) for column in number.columns]
    return torch.vmap(number.compute)(scores[:, list(number.rows)][:, :, columns])


def _numbers(matrix: Matrix) -> dict[str, _Number]:
    end, tasks, probes = len(matrix.rows) - 1, matrix.tasks, matrix.probes
    trained = {j: [i for i in range(1, end + 1) if matrix.trained(i, j)] for j in tasks}
    last = sorted((stages[-1], j) for j, stages in trained.items() if stages)
    first = sorted((stages[0], j) for j, stages in trained.items() if stages)
    # The rows that matter, one per task, make the square matrix of a stream without repetitions.
    ends = ([0, *(i for i, _ in last)], [j for _, j in last])
    starts = ([0, *(i - 1 for i, _ in first[1:]), end], [j for _, j in first])
    seen = torch.tensor([[i >= start for start, _ in first] for i in range(1, end + 1)])
    one = "no stage is known to have trained a task" if not last else ""
    two = one or ("fewer than two tasks were trained" if len(last) < 2 else "")
    scored, losses = [p for p in probes if p not in matrix.losses], [p for p in probes if p in matrix.losses]
    no_probes = "" if scored else "there are no probes"

    def change(R: Tensor) -> Tensor:
        """For the better, in percent of the base's score."""
        return _signs(tasks, matrix) * continual.relative_change(R[0], R[1])

    numbers = {
        "average_accuracy": _Number([end], tasks),
        "learning_accuracy": _Number(*ends, continual.learning_accuracy, one),
        "anytime_accuracy": _Number(range(1, end + 1), [j for _, j in first], lambda R: _seen_mean(R, seen), one),
        "bwt": _Number(*ends, _of_gains(continual.backward_transfer, ends[1], matrix), two),
        "fwt": _Number(*starts, _of_gains(continual.forward_transfer, starts[1], matrix), two),
        "forgetting": _Number(*ends, _of_gains(continual.forgetting, ends[1], matrix), two),
        "relative_gain": _Number(
            [0, end],
            tasks,
            lambda R: change(R).clamp(min=0).mean(),
            unbounded=lambda R: change(R).mean(),
        ),
        "relative_forgetting": _Number(
            [0, end],
            tasks,
            lambda R: (-change(R)).clamp(min=0).mean(),
            unbounded=lambda R: -change(R).mean(),
        ),
        "ood_change": _Number([0, end], scored, lambda R: 100 * (R[1] - R[0]).mean(), no_probes),
        "ood_relative_change": _Number([0, end], scored, lambda R: continual.ood_change(R[0], R[1]), no_probes),
    }
    if losses:
        numbers["loss_change"] = _Number([0, end], losses, lambda R: (R[1] - R[0]).mean())
    if end < 0:
        return {name: _Number(missing="nothing was evaluated") for name in numbers}
    return numbers


def _signs(columns: Sequence[str], matrix: Matrix) -> Tensor:
    return torch.tensor([matrix.sign(column) for column in columns], dtype=torch.float64)


def _of_gains(
    compute: Callable[[Tensor], Tensor], columns: Sequence[str], matrix: Matrix
) -> Callable[[Tensor], Tensor]:
    """A number of scores of which more is better, for columns that may be losses."""
    return lambda R: compute(R * _signs(columns, matrix))


def _seen_mean(R: Tensor, seen: Tensor) -> Tensor:
    return (torch.where(seen, R, 0.0).sum(1) / seen.sum(1)).mean()


def _scores(matrix: Matrix, number: _Number) -> Tensor:
    scores = [[matrix.score(i, j) for j in number.columns] for i in number.rows]
    return torch.tensor(scores, dtype=torch.float64).reshape(len(number.rows), len(number.columns))


def _value(matrix: Matrix, number: _Number) -> float:
    return math.nan if number.missing else float(number.compute(_scores(matrix, number)))


def _missing_cell(matrix: Matrix, number: _Number) -> str:
    """The first undefined cell without which the number is nan, all others being filled."""
    scores = _scores(matrix, number)
    holes = scores.isnan()
    for i, j in holes.nonzero().tolist():
        filled = torch.where(holes, 1.0, scores)
        filled[i, j] = torch.nan
        if number.compute(filled).isnan():
            row, column = number.rows[i], number.columns[j]
            after = "before training" if row == 0 else f"after stage {matrix.rows[row].title}"
            return f"no score on {column!r} {after}: {matrix.reason(row, column)}"
    return "the base model scores 0 on a task" if number.columns else "there are no tasks"
