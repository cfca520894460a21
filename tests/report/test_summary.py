from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch

from lit_sdpo.report.summary import summarize, summary_intervals, undefined
from lit_sdpo.report.tables import Matrix, MatrixRow


def matrix(stages, scores, tasks=None, probes=(), losses=()):
    tasks = tasks or list(dict.fromkeys(stages))
    columns = [*tasks, *probes]
    return Matrix(
        tasks,
        list(probes),
        [
            MatrixRow(i, name, i, dict(zip(columns, row, strict=True)))
            for i, (name, row) in enumerate(zip(["base", *stages], scores, strict=True))
        ],
        losses,
    )


def golden():
    files = [Path(__file__).parents[1] / "golden" / name for name in ("fixtures.json", "turn2.json")]
    return [c for path in files for c in json.loads(path.read_text())["cases"] if c["group"] == "continual"]


@pytest.mark.parametrize("case", golden(), ids=lambda case: case["id"])
def test_a_stream_without_repetition_gives_the_golden_numbers(case):
    scores = case["inputs"]["R"]
    names = [f"task{j}" for j in range(len(scores[0]))]
    losses = names if case.get("params", {}).get("mode") == "min" else []
    numbers = summarize(matrix(names, scores, losses=losses))
    for name in ("average_accuracy", "learning_accuracy", "bwt", "fwt", "forgetting"):
        assert numbers[name] == pytest.approx(case["expected"].get(name, math.nan), rel=1e-9, abs=1e-12, nan_ok=True)
    by_stage = case["expected"].get("forgetting_by_stage", [])
    rows = matrix(names, scores).rows
    cut = [summarize(Matrix(names, [], rows[: k + 1], losses)) for k in range(2, len(names) + 1)]
    assert [numbers["forgetting"] for numbers in cut] == pytest.approx(by_stage)


def test_a_repeated_task_is_judged_by_its_last_stage():
    scores = [[0.1, 0.2], [0.8, 0.3], [0.4, 0.7], [0.6, 0.5], [0.5, 0.9]]
    stages = ["a", "b", "a", "b"]
    numbers = summarize(matrix(stages, scores))
    assert numbers["bwt"] == pytest.approx(0.5 - 0.6)  # not 0.5 - 0.8
    assert numbers["forgetting"] == pytest.approx(0.6 - 0.5)
    assert numbers["fwt"] == pytest.approx(0.3 - 0.2)  # before the first stage of b, not before its last
    third = summarize(matrix(stages[:3], scores[:4]))
    assert third["bwt"] == pytest.approx(0.5 - 0.7)


def test_several_stages_in_a_row_are_no_transfer():
    numbers = summarize(matrix(["a", "a"], [[0.1, 0.2], [0.5, 0.3], [0.7, 0.4]], tasks=["a", "b"]))
    assert math.isnan(numbers["bwt"])
    assert math.isnan(numbers["forgetting"])
    assert numbers["average_accuracy"] == pytest.approx(0.55)


def test_probes_change_in_points_and_do_not_count_as_tasks():
    scores = [[0.1, 0.80, 0.60], [0.5, 0.70, 0.64]]
    numbers = summarize(matrix(["a"], scores, probes=["p", "q"]))
    assert numbers["ood_change"] == pytest.approx(-3.0)
    assert numbers["average_accuracy"] == pytest.approx(0.5)


def test_losses_among_the_probes_have_a_number_of_their_own():
    scores = [[0.1, 0.8, 2.0, 0.5], [0.5, 0.7, 2.3, 0.4]]
    found = matrix(["a"], scores, probes=["p", "x", "y"], losses=["x", "y"])
    numbers = summarize(found)
    assert numbers["ood_change"] == pytest.approx(-10)
    assert numbers["loss_change"] == pytest.approx((0.3 - 0.1) / 2)
    assert "loss_change" not in summarize(matrix(["a"], [row[:2] for row in scores], probes=["p"]))
    # Losses have no bounds, also between 0 and 1: Student's interval of the paired changes.
    items = {0: {"y": {"1": 0.4, "2": 0.6, "3": 0.5}}, 1: {"y": {"1": 0.2, "2": 0.6, "3": 0.4}}}
    alone = matrix(["a"], [[0.1, 0.5], [0.5, 0.4]], probes=["y"], losses=["y"])
    changes = torch.tensor([-0.2, 0.0, -0.1], dtype=torch.float64)
    half = 4.302653 * float(changes.std()) / math.sqrt(3)
    assert summary_intervals(alone, items)["loss_change"] == pytest.approx((-0.1 - half, -0.1 + half), rel=1e-4)


def test_gain_and_forgetting_of_losses_have_the_sign_of_what_is_better():
    numbers = summarize(matrix(["a"], [[2.0, 4.0], [1.0, 5.0]], tasks=["a", "b"], losses=["a", "b"]))
    assert numbers["relative_gain"] == pytest.approx(25)
    assert numbers["relative_forgetting"] == pytest.approx(12.5)
    assert numbers["average_accuracy"] == 3


def test_a_missing_cell_makes_exactly_the_numbers_that_need_it_nan():
    nan = math.nan
    numbers = summarize(matrix(["a", "b"], [[nan, 0.1], [0.5, 0.2], [0.4, 0.7]]))
    assert numbers["bwt"] == pytest.approx(-0.1)
    assert numbers["fwt"] == pytest.approx(0.1)
    numbers = summarize(matrix(["a", "b"], [[0.0, 0.1], [nan, 0.2], [0.4, 0.7]]))
    assert math.isnan(numbers["bwt"])
    assert math.isnan(numbers["forgetting"])
    assert numbers["average_accuracy"] == pytest.approx(0.55)


def test_nothing_measured():
    assert all(math.isnan(x) for x in summarize(Matrix(["a"], [], [])).values())


ID, OOD = ["AIME", "SCI", "TOOL", "CODE"], ["M500", "GPQA", "BFCL", "LCB", "ZLOG", "MMLU"]


def test_the_numbers_of_the_paper():
    """SDPO of table D.6 of arXiv 2607.01763: trained tasks, and the other benchmarks before and at the end."""
    base = [32.71, 50.54, 48.90, 56.39, 73.85, 62.94, 76.25, 46.73, 81.62, 86.02]
    rows = [[56.42, 47.36, 52.06, 57.58], [49.29, 65.70, 48.49, 58.35], [41.13, 70.37, 37.35, 56.39]]
    rows = [row + [math.nan] * 6 for row in rows]
    last = [34.38, 70.71, 9.93, 61.77, 77.40, 51.83, 11.25, 51.89, 72.15, 84.20]
    numbers = summarize(matrix(ID, [base, *rows, last], probes=OOD))
    expected = {"average_accuracy": 44.20, "learning_accuracy": 55.31, "bwt": -14.82, "fwt": -1.20}
    expected |= {"forgetting": 21.28, "ood_relative_change": -16.79}
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, abs=0.006)
    loss = [0, 0, 100 * (48.90 - 9.93) / 48.90, 0]
    assert numbers["relative_forgetting"] == pytest.approx(sum(loss) / 4)


def test_reasons_name_the_first_cell_that_is_needed():
    nan = math.nan
    assert undefined(matrix(["a", "b"], [[nan, 0.1], [0.5, nan], [0.4, 0.7]]))["fwt"] == (
        "no score on 'b' after stage 1 a: the logged score is nan"
    )
    reasons = undefined(matrix(["a"], [[0.0, 0.1], [0.5, 0.2]], tasks=["a", "b"]))
    assert reasons["bwt"] == "fewer than two tasks were trained"
    assert reasons["relative_gain"] == "the base model scores 0 on a task"
    assert reasons["ood_change"] == "there are no probes"
    unlabelled = undefined(matrix(["stage"], [[0.1], [0.2]], tasks=["a"]))
    assert unlabelled["learning_accuracy"] == "no stage is known to have trained a task"
    late = Matrix(["a"], [], [MatrixRow(0, "base", None), MatrixRow(1, "a", 3, {"a": 0.5})])
    assert undefined(late)["relative_gain"] == "no score on 'a' before training: no evaluation before the first step"
    assert not set(undefined(late)) & {"average_accuracy", "learning_accuracy", "anytime_accuracy"}


def random_items(rates, n=200, seed=0):
    """Scores of each task's prompts in each row, independent between tasks, the same luck in all rows."""
    generator = torch.Generator().manual_seed(seed)
    items: dict[int, dict[str, dict[str, float]]] = {i: {} for i in range(len(rates))}
    for j, name in enumerate("ab"):
        luck = torch.rand(n, generator=generator)
        for i, row in enumerate(rates):
            items[i][name] = {str(k): float(x < row[j]) for k, x in enumerate(luck.tolist())}
    return items


def test_intervals_are_paired_over_the_stages():
    rates = [[0.2, 0.2], [0.6, 0.2], [0.5, 0.7]]
    items = random_items(rates)
    scores = [[sum(items[i][name].values()) / 200 for name in "ab"] for i in range(3)]
    made = matrix(["a", "b"], scores)
    numbers, intervals = summarize(made), summary_intervals(made, items)
    assert set(intervals) == set(numbers) - {"ood_change", "ood_relative_change"}
    for name, (low, high) in intervals.items():
        assert low <= numbers[name] + 1e-12, name
        assert high >= numbers[name] - 1e-12, name
    difference = torch.tensor([items[2]["a"][k] - items[1]["a"][k] for k in items[1]["a"]])
    low, high = intervals["bwt"]
    assert (high - low) / 2 == pytest.approx(1.96 * difference.std().item() / 200**0.5, rel=0.15)
    assert summary_intervals(made, {}) == {}
    assert "fwt" not in summary_intervals(made, {0: items[0], 2: items[2]})


def test_all_numbers_with_intervals_take_little_time():
    """Four tasks of 500 prompts, five rows: below three seconds also on a busy machine."""
    names = ["a", "b", "c", "d"]
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(5, 4, 500, generator=generator)
    items = {
        i: {name: {str(k): float(x) for k, x in enumerate(values[i, j])} for j, name in enumerate(names)}
        for i in range(5)
    }
    started = time.process_time()
    assert len(summary_intervals(matrix(names, values.mean(2).tolist()), items)) == 8
    assert time.process_time() - started < 3
