"""Measures inside stages against plain loops over lists."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from lit_sdpo.functional import (
    average_min_accuracy,
    forgetting,
    learning_curve_area,
    min_accuracy,
    stability_gap,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
    worst_case_accuracy_by_stage,
)

F64 = torch.float64


def drawn(seed, tasks=3, holes=0.2):
    """Curves with holes, the stage and the step of each evaluation, as lists."""
    draw = random.Random(seed)
    stages = [0] + [stage for stage in range(1, tasks + 1) for _ in range(draw.randint(1, 4))]
    steps = [0]
    for _ in stages[1:]:
        steps.append(steps[-1] + draw.randint(1, 9))
    curves = [[math.nan if draw.random() < holes else draw.random() for _ in stages] for _ in range(tasks)]
    return curves, stages, steps


def known(pairs):
    return [(stage, value) for stage, value in pairs if not math.isnan(value)]


def mean(values):
    return sum(values) / len(values) if values else math.nan


def oracle(curves, stages, steps, window):
    n = len(curves)
    seen = [known(zip(stages, curve, strict=True)) for curve in curves]

    def least(values):
        return min(values, default=math.nan)

    def end(j):
        own = [value for stage, value in seen[j - 1] if stage == j]
        return own[-1] if own else math.nan

    def after(j, through):
        return least([value for stage, value in seen[j - 1] if j < stage <= through])

    def pairs(j):
        values = [value for _, value in seen[j]]
        return [(a, b) for i, a in enumerate(values) for k, b in enumerate(values) if i < k < i + window]

    def area(j):
        points = [(s, x, y) for s, x, y in zip(stages, steps, curves[j - 1], strict=True) if not math.isnan(y)]
        points = [p for p in points if p[0] < j][-1:] + [p for p in points if p[0] == j]
        if len(points) < 2:
            return math.nan
        total = sum((b[1] - a[1]) * (a[2] + b[2]) / 2 for a, b in itertools.pairwise(points))
        return total / (points[-1][1] - points[0][1])

    minima = [after(j, n) for j in range(1, n)]
    return {
        "min": minima,
        "average": mean(minima),
        "worst": [
            end(k) if k == 1 else end(k) / k + (1 - 1 / k) * mean([after(j, k) for j in range(1, k)])
            for k in range(1, n + 1)
        ],
        "forgetting": [max([0.0, *(a - b for a, b in pairs(j))]) for j in range(n)],
        "plasticity": [max([0.0, *(b - a for a, b in pairs(j))]) for j in range(n)],
        "gap": [
            gap if math.isnan(gap := end(j) - least([v for s, v in seen[j - 1] if s == j + 1])) else max(0.0, gap)
            for j in range(1, n)
        ],
        "area": [area(j) for j in range(1, n + 1)],
    }


def measured(curves, stages, steps, window, mode="max"):
    curves, stages, steps = torch.tensor(curves, dtype=F64), torch.tensor(stages), torch.tensor(steps)
    return {
        "min": min_accuracy(curves, stages, mode),
        "average": average_min_accuracy(curves, stages, mode),
        "worst": worst_case_accuracy_by_stage(curves, stages, mode),
        "forgetting": windowed_forgetting(curves, window, mode),
        "plasticity": windowed_plasticity(curves, window, mode),
        "gap": stability_gap(curves, stages, mode),
        "area": learning_curve_area(curves, stages, steps, mode),
    }


@pytest.mark.parametrize("seed", range(12))
def test_against_loops(seed):
    curves, stages, steps = drawn(seed, tasks=1 + seed % 4, holes=0.1 * (seed % 6))
    for window in (1, 2, 3, 100):
        found, expected = measured(curves, stages, steps, window), oracle(curves, stages, steps, window)
        for name, value in found.items():
            torch.testing.assert_close(
                value, torch.tensor(expected[name], dtype=F64), equal_nan=True, rtol=1e-12, atol=1e-12, msg=name
            )


@pytest.mark.parametrize("seed", range(4))
def test_losses_are_scores_with_the_other_sign(seed):
    curves, stages, steps = drawn(seed)
    less = measured([[-value for value in curve] for curve in curves], stages, steps, 3, mode="min")
    for name, value in measured(curves, stages, steps, 3).items():
        level = name in ("min", "average", "worst", "area")
        torch.testing.assert_close(less[name], -value if level else value, equal_nan=True)


def test_evaluations_at_the_ends_alone_agree_with_the_matrix():
    R = torch.rand(4, 3, dtype=F64)
    stages = torch.arange(4)
    drops = (R[1:-1].diagonal() - R[2:].diagonal()).clamp(min=0)
    torch.testing.assert_close(stability_gap(R.T, stages), drops)
    torch.testing.assert_close(learning_curve_area(R.T, stages, 50 * stages), (R[:-1] + R[1:]).diagonal() / 2)
    assert windowed_forgetting(R.T, 100)[:2].mean() >= forgetting(R, with_base=True)


def test_a_dip_that_recovers_shows_here_and_not_in_the_matrix():
    curves = torch.tensor([[0.1, 0.8, 0.3, 0.8], [0.1, 0.1, 0.5, 0.9]])
    stages = torch.tensor([0, 1, 2, 2])
    assert forgetting(curves[:, [0, 1, 3]].T).item() == 0
    assert stability_gap(curves, stages).item() == pytest.approx(0.5)
    assert worst_case_accuracy(curves, stages).item() == pytest.approx(0.45 + 0.15)


def test_a_task_that_was_never_measured_and_a_single_evaluation():
    curves, stages = torch.full((2, 3), math.nan), torch.tensor([0, 1, 2])
    curves[0, 1] = 0.5
    assert windowed_forgetting(curves, 5).tolist() == windowed_plasticity(curves, 5).tolist() == [0, 0]
    for value in (
        average_min_accuracy(curves, stages),
        worst_case_accuracy(curves, stages),
        stability_gap(curves, stages),
        learning_curve_area(curves, stages, stages),
    ):
        assert value.isnan().all()
    assert worst_case_accuracy_by_stage(curves, stages)[0] == 0.5


def test_a_stream_that_is_not_over_yet():
    curves, stages = torch.tensor([[0.1, 0.8, 0.6], [0.1, 0.2, 0.5], [0.0, 0.0, 0.1]]), torch.tensor([0, 1, 2])
    torch.testing.assert_close(min_accuracy(curves, stages), torch.tensor([0.6, math.nan]), equal_nan=True)
    torch.testing.assert_close(
        worst_case_accuracy_by_stage(curves, stages), torch.tensor([0.8, 0.55, math.nan]), equal_nan=True
    )


def test_two_evaluations_at_one_step_have_no_area():
    curves = torch.tensor([[0.1, 0.8]])
    assert learning_curve_area(curves, torch.tensor([0, 1]), torch.tensor([5, 5])).isnan().all()


def test_mistakes():
    curves, stages = torch.zeros(2, 3), torch.tensor([0, 1, 2])
    for call, message in [
        (lambda: min_accuracy(curves[0], stages), "row for each task"),
        (lambda: min_accuracy(curves[:0], stages), "row for each task"),
        (lambda: min_accuracy(curves, stages[:2]), "one for each evaluation"),
        (lambda: min_accuracy(curves, torch.tensor([0, 2, 1])), "stages must be in ascending order"),
        (lambda: min_accuracy(curves, torch.tensor([0, 1, 3])), "0 to 2"),
        (lambda: min_accuracy(curves, torch.tensor([-1, 1, 2])), "0 to 2"),
        (lambda: learning_curve_area(curves, stages, torch.tensor([0, 9, 8])), "steps must be in ascending order"),
        (lambda: windowed_forgetting(curves, 0), "window"),
        (lambda: windowed_plasticity(curves, 2, "less"), "unknown mode"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
