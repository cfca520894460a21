from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lit_sdpo.report.summary import summarize
from lit_sdpo.report.tables import Matrix, MatrixRow


def matrix(stages, scores, tasks=None, probes=()):
    tasks = tasks or list(dict.fromkeys(stages))
    columns = [*tasks, *probes]
    return Matrix(
        tasks,
        list(probes),
        [
            MatrixRow(i, name, i, dict(zip(columns, row, strict=True)))
            for i, (name, row) in enumerate(zip(["base", *stages], scores, strict=True))
        ],
    )


def golden():
    path = Path(__file__).parents[1] / "golden" / "fixtures.json"
    return [c for c in json.loads(path.read_text())["cases"] if c["group"] == "continual"]


@pytest.mark.parametrize("case", golden(), ids=lambda case: case["id"])
def test_a_stream_without_repetition_gives_the_golden_numbers(case):
    scores = case["inputs"]["R"]
    names = [f"task{j}" for j in range(len(scores[0]))]
    numbers = summarize(matrix(names, scores))
    for name in ("average_accuracy", "bwt", "fwt", "forgetting"):
        assert numbers[name] == pytest.approx(case["expected"].get(name, math.nan), rel=1e-9, abs=1e-12, nan_ok=True)
    by_stage = case["expected"].get("forgetting_by_stage", [])
    cut = [summarize(Matrix(names, [], matrix(names, scores).rows[: k + 1])) for k in range(2, len(names) + 1)]
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


def test_the_numbers_of_the_paper():
    """GRPO and SDPO of table D.6 of arXiv 2607.01763, columns AIME, SCI, TOOL, CODE."""
    base = [32.71, 50.54, 48.90, 56.39]
    rows = [[56.42, 47.36, 52.06, 57.58], [49.29, 65.70, 48.49, 58.35], [41.13, 70.37, 37.35, 56.39]]
    numbers = summarize(matrix(["AIME", "SCI", "TOOL", "CODE"], [base, *rows, [34.38, 70.71, 9.93, 61.77]]))
    assert numbers["average_accuracy"] == pytest.approx(44.20, abs=0.01)
    assert numbers["bwt"] == pytest.approx(-14.82, abs=0.01)
    assert numbers["fwt"] == pytest.approx(-1.20, abs=0.01)
    assert numbers["forgetting"] == pytest.approx(21.28, abs=0.01)
