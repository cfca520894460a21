"""All golden cases, in both dtypes; and the evaluation itself can fail."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.check import case_dtype, check_case
from tests.golden.evaluate import GROUPS, NOT_COVERED, not_covered

FILES = [json.loads((Path(__file__).parent / name).read_text()) for name in ("fixtures.json", "turn2.json")]
TOLERANCE = FILES[0]["tolerance"]
CASES = [case for file in FILES for case in file["cases"] if not not_covered(case)]


def test_both_files_have_one_tolerance():
    assert [file["tolerance"] for file in FILES] == [TOLERANCE] * 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case, dtype):
    assert check_case(case, dtype, TOLERANCE) == []


def test_what_is_not_covered_is_known_and_a_misspelt_group_fails():
    left = {not_covered(case) for file in FILES for case in file["cases"]} - {None}
    assert left == NOT_COVERED
    assert NOT_COVERED.isdisjoint(GROUPS)
    assert check_case({"group": "polisy", "inputs": {}, "expected": {}}, "float64") == ["unknown group 'polisy'"]


@pytest.mark.parametrize("group", sorted({case["group"] for case in CASES}))
def test_a_wrong_expectation_is_reported(group):
    def disturb(x):
        if isinstance(x, dict):
            return {k: disturb(v) if k != "index" else v for k, v in x.items()}
        if isinstance(x, list):
            return [disturb(v) for v in x] or [7]
        return f"{x}!" if isinstance(x, str) else (not x) if isinstance(x, bool) else x + 0.01

    case = copy.deepcopy(next(case for case in CASES if case["group"] == group))
    for key in case["expected"]:
        wrong = {**case, "expected": {key: disturb(case["expected"][key])}}
        assert check_case(wrong, "float64", TOLERANCE), key


def test_dtype_of_the_case_goes_before_that_of_the_file():
    assert case_dtype({"dtype": "float32"}, {"dtype": "float64"}) == "float32"
    assert case_dtype({}, {"dtype": "float32"}) == "float32"


@pytest.mark.slow
def test_command_line_reports_failures(tmp_path):
    case = next(case for case in CASES if case["group"] == "continual")
    wrong = copy.deepcopy(case)
    wrong["expected"]["average_accuracy"] += 1e-6
    path = tmp_path / "unseen.json"
    left = {"id": "later", "group": "merge"}
    path.write_text(json.dumps({"dtype": "float64", "cases": [case, wrong, left]}))
    done = subprocess.run([sys.executable, "-m", "tests.golden", path], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["not covered: merge (1)", "1 passed, 1 failed, 1 not covered"]
    assert done.returncode == 1
