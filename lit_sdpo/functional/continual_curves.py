"""What a stream of tasks does to each of them while it happens: measures of evaluations inside stages.

``curves[j - 1][e]`` is the score on task j at evaluation e, [N, E]; nan was not measured and is left out. ``stages[e]``
says when, ascending: 0 before any training, k within stage k or at its end. ``steps[e]`` is the optimizer step.
Task j is that of stage j, j = 1..N. A stage ends with its last evaluation of a task.

With ``mode="min"`` less is better (losses): everything is done with ``-score``, and what is a level (least score, worst
case, area) has the score's own sign again. The measures of the minimum and of windows are those of arXiv 2205.13452.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_sdpo.functional.continual import Mode, signed


def _checked(curves: Tensor, mode: Mode) -> Tensor:
    if curves.dim() != 2 or not len(curves):
        raise ValueError(f"curves must be [N, E], a row for each task, got {list(curves.shape)}")
    return signed(curves, mode)


def _ascending(name: str, values: Tensor, curves: Tensor) -> Tensor:
    if values.shape != curves.shape[1:]:
        raise ValueError(f"{name} must be [{curves.shape[1]}], one for each evaluation, got {list(values.shape)}")
    if bool((values.diff() < 0).any()):
        raise ValueError(f"{name} must be in ascending order")
    return values.to(curves.device)


def _staged(curves: Tensor, stages: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
    curves = _checked(curves, mode)
    stages = _ascending("stages", stages, curves)
    if bool(((stages < 0) | (stages > len(curves))).any()):
        raise ValueError(f"stages must be 0 to {len(curves)}, the number of tasks")
    return curves, stages


def _stacked(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(values) if values else like.new_zeros(0)


def _least(scores: Tensor) -> Tensor:
    """The least measured score of [E]; nan without any."""
    known = scores[~scores.isnan()]
    return known.min() if len(known) else scores.new_tensor(torch.nan)


def _last(scores: Tensor) -> Tensor:
    """The last measured score of [E]; nan without any."""
    known = scores[~scores.isnan()]
    return known[-1] if len(known) else scores.new_tensor(torch.nan)


def _least_after_own_stage(curves: Tensor, stages: Tensor, through: int) -> Tensor:
    """Of tasks 1 to k - 1, at evaluations after their own stage and up to the end of stage k, [k - 1]."""
    return _stacked([_least(curves[j - 1, (stages > j) & (stages <= through)]) for j in range(1, through)], curves)


def min_accuracy(curves: Tensor, stages: Tensor, mode: Mode = "max") -> Tensor:
    """Least score of each task j < N after its own stage, [N - 1]; nan where it was not evaluated then.

    Args:
        curves: [N, E].
        stages: int64 [E].
        mode: Whether more is better or less.

    Example:
        >>> min_accuracy(torch.tensor([[0.2, 0.8, 0.3, 0.7], [0.1, 0.1, 0.5, 0.9]]), torch.tensor([0, 1, 2, 2]))
        tensor([0.3000])
    """
    scores, stages = _staged(curves, stages, mode)
    return signed(_least_after_own_stage(scores, stages, len(scores)), mode)


def average_min_accuracy(curves: Tensor, stages: Tensor, mode: Mode = "max") -> Tensor:
    """min-ACC: mean over the tasks j < N of :func:`min_accuracy`; nan for one task alone.

    Args:
        curves: [N, E].
        stages: int64 [E].
        mode: Whether more is better or less.
    """
    return min_accuracy(curves, stages, mode).mean()


def worst_case_accuracy_by_stage(curves: Tensor, stages: Tensor, mode: Mode = "max") -> Tensor:
    """:func:`worst_case_accuracy` of the first k stages and tasks, for k = 1..N, [N].

    Args:
        curves: [N, E].
        stages: int64 [E].
        mode: Whether more is better or less.
    """
    scores, stages = _staged(curves, stages, mode)
    found = []
    for k in range(1, len(scores) + 1):
        end = _last(scores[k - 1, stages == k])
        least = _least_after_own_stage(scores, stages, k)
        found.append(end / k + (1 - 1 / k) * least.mean() if k > 1 else end)
    return signed(torch.stack(found), mode)


def worst_case_accuracy(curves: Tensor, stages: Tensor, mode: Mode = "max") -> Tensor:
    """WC-ACC: ``A_N(end of stage N) / N + (1 - 1/N) average_min_accuracy`` (arXiv 2205.13452).

    What was learned last, and the worst that became of the others: low for a learner that dips and recovers, and for
    one that does not learn.

    Args:
        curves: [N, E].
        stages: int64 [E].
        mode: Whether more is better or less.

    Example:
        >>> worst_case_accuracy(torch.tensor([[0.2, 0.8, 0.3, 0.7], [0.1, 0.1, 0.5, 0.9]]), torch.tensor([0, 1, 2, 2]))
        tensor(0.6000)
    """
    return worst_case_accuracy_by_stage(curves, stages, mode)[-1]


def _largest_rise(scores: Tensor, window: int) -> Tensor:
    """Largest later minus earlier score of [E] among pairs within so many measured evaluations, at least 0."""
    known = scores[~scores.isnan()]
    rises = ((known[lag:] - known[:-lag]).max() for lag in range(1, min(window, len(known))))
    return torch.stack([known.new_zeros(()), *rises]).max()


def windowed_plasticity(curves: Tensor, window: int, mode: Mode = "max") -> Tensor:
    """WP^w: the largest gain of each task within ``window`` evaluations in a row, at least 0, [N] (arXiv 2205.13452).

    The largest later - earlier score among all pairs within the window; the published code leaves out pairs below an
    earlier maximum and can find less.

    Args:
        curves: [N, E].
        window: Measured evaluations of the task, at least 1, which gives 0; a long one is the whole history.
        mode: Whether more is better or less.

    Raises:
        ValueError: ``window`` is below 1.

    Example:
        >>> windowed_plasticity(torch.tensor([[0.2, 0.8, 0.3, 0.7]]), window=2)
        tensor([0.6000])
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    return torch.stack([_largest_rise(scores, window) for scores in _checked(curves, mode)])


def windowed_forgetting(curves: Tensor, window: int, mode: Mode = "max") -> Tensor:
    """WF^w: the largest loss of each task within ``window`` evaluations in a row, at least 0, [N] (arXiv 2205.13452).

    The largest earlier - later score among all pairs within the window, whatever is trained meanwhile.

    Args:
        curves: [N, E].
        window: Measured evaluations of the task, at least 1, which gives 0; a long one is the whole history.
        mode: Whether more is better or less.

    Raises:
        ValueError: ``window`` is below 1.

    Example:
        >>> windowed_forgetting(torch.tensor([[0.2, 0.8, 0.3, 0.7]]), window=2)
        tensor([0.5000])
    """
    return windowed_plasticity(-_checked(curves, mode), window)


def stability_gap(curves: Tensor, stages: Tensor, mode: Mode = "max") -> Tensor:
    """How deep each task j < N falls while the next one is trained, [N - 1].

    ``max(0, A_j(end of stage j) - least A_j in stage j + 1)``; nan where one of them was not measured. There is no
    published formula.

    Args:
        curves: [N, E].
        stages: int64 [E].
        mode: Whether more is better or less.

    Example:
        >>> stability_gap(torch.tensor([[0.2, 0.8, 0.3, 0.7], [0.1, 0.1, 0.5, 0.9]]), torch.tensor([0, 1, 2, 2]))
        tensor([0.5000])
    """
    scores, stages = _staged(curves, stages, mode)
    gaps = [
        (_last(scores[j - 1, stages == j]) - _least(scores[j - 1, stages == j + 1])).clamp(min=0)
        for j in range(1, len(scores))
    ]
    return _stacked(gaps, scores)


def learning_curve_area(curves: Tensor, stages: Tensor, steps: Tensor, mode: Mode = "max") -> Tensor:
    """Mean height of each task's curve while it is trained, [N].

    Trapezoids over the steps, from the last measured evaluation before stage j to the end of stage j, divided by the
    steps between. It has nothing to do with A-GEM's LCA (arXiv 1812.00420), a mean over the first batches.

    Args:
        curves: [N, E].
        stages: int64 [E].
        steps: Optimizer step of each evaluation, [E].
        mode: Whether more is better or less.

    Returns:
        nan with fewer than two points, or without a step between them.

    Example:
        >>> curves, stages = torch.tensor([[0.2, 0.6, 0.8]]), torch.tensor([0, 1, 1])
        >>> learning_curve_area(curves, stages, steps=torch.tensor([0, 5, 10]))
        tensor([0.5500])
    """
    scores, stages = _staged(curves, stages, mode)
    steps = _ascending("steps", steps, scores).to(scores.dtype)
    areas = []
    for j, curve in enumerate(scores, 1):
        known = ~curve.isnan()
        chosen = known & (stages == j)
        if len(before := (known & (stages < j)).nonzero()):
            chosen[before[-1]] = True
        x, y = steps[chosen], curve[chosen]
        areas.append(torch.trapezoid(y, x) / (x[-1] - x[0]) if len(x) > 1 else curve.new_tensor(torch.nan))
    return signed(torch.stack(areas), mode)
