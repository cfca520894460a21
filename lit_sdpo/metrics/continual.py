"""What a stream of tasks does to each of them, summed up while it happens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lit_sdpo.functional import transition_shares
from lit_sdpo.ranges import check_integer


class RetentionMatrix(Metric):
    """Mean score on every task after every stage: ``R[i][j]``, row 0 before training.

    It is what the functions of :mod:`lit_sdpo.functional.continual` take. Lightning resets logged metrics at the end of
    an epoch; this one is to live for a whole run, so do not log the object but what is computed from it.

    Args:
        tasks: N.
        options: Of :class:`torchmetrics.Metric`.

    Returns of ``compute``: float64 [N + 1, N], nan where nothing was scored.

    Example:
        >>> from lit_sdpo.functional import backward_transfer
        >>> matrix = RetentionMatrix(tasks=2)
        >>> for stage, (first, second) in enumerate([(0.0, 0.0), (0.5, 0.1), (0.6, 0.7)]):
        ...     matrix.update(stage, 0, torch.tensor([first]))
        ...     matrix.update(stage, 1, torch.tensor([second]))
        >>> round(backward_transfer(matrix.compute()).item(), 6)
        0.1
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, tasks: int, **options: Any) -> None:
        super().__init__(**options)
        check_integer("tasks", tasks, at_least=1)
        for name in ("total", "count"):
            zeros = torch.zeros(tasks + 1, tasks, dtype=torch.float64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum", persistent=True)

    @override
    def update(self, stage: int, task: int | Tensor, score: Tensor) -> None:
        """Add the scores of one evaluation.

        Args:
            stage: 0 before training, then 1 to N.
            task: Number of the task from 0, one or one per score.
            score: Scores, [B]; nan abstains.

        Raises:
            IndexError: There is no such stage or task.
        """
        score = score.detach().flatten()
        task = torch.as_tensor(task, device=score.device).expand(len(score))
        known = ~score.isnan()
        if not 0 <= stage < len(self.total) or bool(((task < 0) | (task >= self.total.shape[1])).any()):
            raise IndexError(f"no stage {stage} or no such task among {self.total.shape[1]}")
        self.total[stage].index_add_(0, task[known], score[known].to(self.total.dtype))
        self.count[stage] += task[known].bincount(minlength=self.total.shape[1])

    @override
    def compute(self) -> Tensor:
        """The matrix so far."""
        return torch.where(self.count > 0, self.total / self.count, torch.nan)

    @override
    def set_dtype(self, dst_type: Any) -> RetentionMatrix:
        """Sums stay float64."""
        return self


class TransitionShares(Metric):
    """Which items were lost and which were won between two evaluations (arXiv 2510.17776).

    The class of :func:`lit_sdpo.functional.transitions`: before and after are correct or not, or the share of an item's
    samples that is. The items of one update must be the same ones in the same order.

    Args:
        choices: Options of a multiple-choice question, which corrects for guessing; ``None`` for open answers.
        options: Of :class:`torchmetrics.Metric`.

    Returns of ``compute``: the dictionary of :func:`lit_sdpo.functional.transitions`; nan without any item.

    Example:
        >>> metric = TransitionShares(choices=2)
        >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 0]))
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([1, 0]))
        >>> result = metric.compute()
        >>> result["forgetting"].item(), result["forgetting_true"].item()
        (0.25, 0.0)
    """

    is_differentiable = False
    full_state_update = False

    sums: Tensor
    items: Tensor

    def __init__(self, choices: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.choices = check_integer("choices", choices, at_least=2, optional=True)
        #: Right before, right after, lost, won.
        self.add_state("sums", default=torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum", persistent=True)
        self.add_state("items", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum", persistent=True)

    @override
    def update(self, before: Tensor, after: Tensor) -> None:
        """Add items.

        Args:
            before: In [0, 1], [B].
            after: The same items, [B].

        Raises:
            ValueError: The shapes differ.
        """
        if before.shape != after.shape:
            shapes = f"{list(before.shape)} and {list(after.shape)}"
            raise ValueError(f"before and after must be the same items, got {shapes}")
        before, after = before.detach().double(), after.detach().double()
        parts = (before, after, before * (1 - after), (1 - before) * after)
        self.sums += torch.stack([part.sum() for part in parts]).to(self.sums.dtype)
        self.items += before.numel()

    @override
    def compute(self) -> dict[str, Tensor]:
        """Shares of all items so far."""
        before, after, lost, won = self.sums / self.items
        return transition_shares(before, after, lost, won, self.choices)

    @override
    def set_dtype(self, dst_type: Any) -> TransitionShares:
        """Sums stay float64."""
        return self
