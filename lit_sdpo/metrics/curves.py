"""What happens to each task while a stream is trained: measures of evaluations inside stages."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lit_sdpo.functional import (
    average_min_accuracy,
    learning_curve_area,
    min_accuracy,
    stability_gap,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from lit_sdpo.functional.continual import Mode
from lit_sdpo.ranges import check_integer


class CurveMetric(Metric):
    """What the measures of :mod:`lit_sdpo.functional.continual_curves` share: the mean score of every evaluation.

    Lightning resets logged metrics at the end of an epoch; this one is to live for a whole run, so do not log the
    object but what is computed from it. Several of them in one ``MetricCollection`` keep the scores once. As every
    class of torchmetrics they make a scalar of a result with one value.

    Args:
        tasks: N; task j - 1 is that of stage j.
        mode: Whether more is better or less.
        options: Of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False

    #: Stage, step, task, sum of scores and their number, [n, 5] in float64.
    sums: list[Tensor] | Tensor

    def __init__(self, tasks: int, mode: Mode = "max", **options: Any) -> None:
        super().__init__(**options)
        self.tasks = check_integer("tasks", tasks, at_least=1)
        self.mode: Mode = mode
        self.add_state("sums", default=[], dist_reduce_fx="cat", persistent=True)

    @override
    def update(self, stage: int, step: int, task: int | Tensor, score: Tensor) -> None:
        """Add scores of one evaluation.

        Args:
            stage: 0 before training, k within stage k or at its end, 1 to N.
            step: Optimizer step.
            task: Number of the task from 0, one or one per score.
            score: Scores, [B]; nan abstains.

        Raises:
            IndexError: There is no such stage or task.
        """
        score = score.detach().flatten().double()
        task = torch.as_tensor(task, device=score.device).expand(len(score))
        if not 0 <= stage <= self.tasks or bool(((task < 0) | (task >= self.tasks)).any()):
            raise IndexError(f"no stage {stage} or no such task among {self.tasks}")
        known = ~score.isnan()
        found, place, count = task[known].unique(return_inverse=True, return_counts=True)
        total = score.new_zeros(len(found)).index_add_(0, place, score[known])
        when = score.new_tensor([stage, step]).expand(len(found), 2)
        assert isinstance(self.sums, list)
        self.sums.append(torch.cat([when, torch.stack([found.double(), total, count.double()], 1)], 1))

    def curves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean scores [N, E], nan where nothing was scored, stages [E] and steps [E] of the evaluations so far."""
        self._fill_empty()
        sums = dim_zero_cat(self.sums)
        times, place = sums[:, :2].unique(dim=0, return_inverse=True)
        cell = sums[:, 2].long() * len(times) + place
        total, count = (sums.new_zeros(self.tasks * len(times)).index_add_(0, cell, sums[:, k]) for k in (3, 4))
        curves = torch.where(count > 0, total / count, torch.nan).view(self.tasks, len(times))
        return curves, times[:, 0].long(), times[:, 1].long()

    @abstractmethod
    @override
    def compute(self) -> Tensor:
        """The measure so far."""

    @override
    def sync(self, *args: Any, **options: Any) -> None:
        self._fill_empty()
        super().sync(*args, **options)

    def _fill_empty(self) -> None:
        """Give a rank without data an empty tensor of the right type: gathering needs one type on all ranks."""
        if isinstance(self.sums, list) and not self.sums:
            self.sums.append(torch.empty(0, 5, dtype=torch.float64, device=self.device))

    @override
    def set_dtype(self, dst_type: Any) -> CurveMetric:
        """Sums stay float64."""
        return self


class MinAccuracy(CurveMetric):
    """Least score of each task after its own stage: :func:`~lit_sdpo.functional.min_accuracy`, float64 [N - 1].

    Example:
        >>> metric = MinAccuracy(tasks=2)
        >>> for stage, step, first in [(0, 0, 0.2), (1, 10, 0.8), (2, 15, 0.3), (2, 20, 0.7)]:
        ...     metric.update(stage, step, 0, torch.tensor([first]))
        >>> metric.compute()
        tensor(0.3000, dtype=torch.float64)
    """

    @override
    def compute(self) -> Tensor:
        curves, stages, _ = self.curves()
        return min_accuracy(curves, stages, self.mode)


class AverageMinAccuracy(CurveMetric):
    """min-ACC: :func:`~lit_sdpo.functional.average_min_accuracy`, a float64 scalar."""

    @override
    def compute(self) -> Tensor:
        curves, stages, _ = self.curves()
        return average_min_accuracy(curves, stages, self.mode)


class WorstCaseAccuracy(CurveMetric):
    """WC-ACC: :func:`~lit_sdpo.functional.worst_case_accuracy`, a float64 scalar."""

    @override
    def compute(self) -> Tensor:
        curves, stages, _ = self.curves()
        return worst_case_accuracy(curves, stages, self.mode)


class StabilityGap(CurveMetric):
    """How deep each task falls in the stage after its own: :func:`~lit_sdpo.functional.stability_gap`, [N - 1]."""

    @override
    def compute(self) -> Tensor:
        curves, stages, _ = self.curves()
        return stability_gap(curves, stages, self.mode)


class LearningCurveArea(CurveMetric):
    """Mean height of each curve in its own stage: :func:`~lit_sdpo.functional.learning_curve_area`, float64 [N]."""

    @override
    def compute(self) -> Tensor:
        return learning_curve_area(*self.curves(), self.mode)


class _Windowed(CurveMetric):
    """A measure of windows of evaluations.

    Args:
        tasks: N.
        window: Measured evaluations of a task in a row, at least 1.
        mode: Whether more is better or less.
        options: Of :class:`torchmetrics.Metric`.
    """

    def __init__(self, tasks: int, window: int, mode: Mode = "max", **options: Any) -> None:
        super().__init__(tasks, mode, **options)
        self.window = check_integer("window", window, at_least=1)


class WindowedForgetting(_Windowed):
    """WF^w: :func:`~lit_sdpo.functional.windowed_forgetting`, float64 [N]."""

    @override
    def compute(self) -> Tensor:
        return windowed_forgetting(self.curves()[0], self.window, self.mode)


class WindowedPlasticity(_Windowed):
    """WP^w: :func:`~lit_sdpo.functional.windowed_plasticity`, float64 [N]."""

    @override
    def compute(self) -> Tensor:
        return windowed_plasticity(self.curves()[0], self.window, self.mode)
