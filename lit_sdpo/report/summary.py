"""The continual-learning numbers of a retention matrix whose tasks may repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_sdpo.functional import continual
from lit_sdpo.report.tables import Matrix


def summarize(matrix: Matrix) -> dict[str, float]:
    """Average accuracy, BWT, FWT, forgetting and the change of the probes, at the matrix's last row.

    With ``R[i][j]`` the score on task j after stage i, row 0 the base, N the last row, ``first(j)`` and ``last(j)`` the
    first and the last stage up to N that trained on j:

    - ``average_accuracy``: mean over all tasks of ``R[N][j]``, whether trained yet or not.
    - ``bwt``: mean of ``R[N][j] - R[last(j)][j]`` over tasks with ``last(j) < N``.
    - ``forgetting``: mean of ``max_i R[i][j] - R[N][j]`` over the same tasks, where i runs through ``last(k)`` of them.
    - ``fwt``: mean of ``R[first(j) - 1][j] - R[0][j]`` over the tasks after the first.
    - ``ood_change``: ``100 mean(R[N][p] - R[0][p])`` over the probes p, in percentage points of a score in [0, 1].

    A task's own stage is its last one: a task that comes back is judged by what it had when it was last trained. Where
    every task has one stage, the numbers are those of :mod:`lit_sdpo.functional.continual`.

    Returns:
        The five numbers; nan where a cell that is needed is undefined or no task qualifies.

    Example:
        >>> from lit_sdpo.report.tables import MatrixRow
        >>> rows = [("base", 0.0, 0.0), ("a", 0.5, 0.1), ("b", 0.6, 0.7)]
        >>> rows = [MatrixRow(i, name, i, {"a": a, "b": b}) for i, (name, a, b) in enumerate(rows)]
        >>> {name: round(value, 3) for name, value in summarize(Matrix(["a", "b"], [], rows)).items()}
        {'average_accuracy': 0.65, 'bwt': 0.1, 'fwt': 0.1, 'forgetting': -0.1, 'ood_change': nan}
    """
    numbers = dict.fromkeys(("average_accuracy", "bwt", "fwt", "forgetting", "ood_change"), math.nan)
    if not matrix.rows:
        return numbers
    end = len(matrix.rows) - 1
    numbers["average_accuracy"] = float(_scores(matrix, [end], matrix.tasks).mean())
    change = _scores(matrix, [end], matrix.probes) - _scores(matrix, [0], matrix.probes)
    numbers["ood_change"] = 100 * float(change.mean())

    trained = {j: [i for i in range(1, end + 1) if matrix.trained(i, j)] for j in matrix.tasks}
    last = sorted((stages[-1], j) for j, stages in trained.items() if stages)
    first = sorted((stages[0], j) for j, stages in trained.items() if stages)
    if len(last) > 1:
        # The rows that matter, one per task, make the square matrix of a stream without repetitions.
        ends = _scores(matrix, [0, *(i for i, _ in last)], [j for _, j in last])
        starts = _scores(matrix, [0, *(i - 1 for i, _ in first[1:]), end], [j for _, j in first])
        numbers["bwt"] = float(continual.backward_transfer(ends))
        numbers["forgetting"] = float(continual.forgetting(ends))
        numbers["fwt"] = float(continual.forward_transfer(starts))
    return numbers


def _scores(matrix: Matrix, rows: Sequence[int], columns: Sequence[str]) -> Tensor:
    """``R[rows][:, columns]``, float64."""
    scores = [[matrix.score(i, j) for j in columns] for i in rows]
    return torch.tensor(scores, dtype=torch.float64).reshape(len(rows), len(columns))
