"""All golden cases, in both dtypes; and the evaluation itself can fail."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.check import case_dtype, check_case

PATH = Path(__file__).parent / "fixtures.json"
FILE = json.loads(PATH.read_text())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: case["id"])
def test_case(case, dtype):
    assert check_case(case, dtype, FILE["tolerance"]) == []


@pytest.mark.parametrize("group", sorted({case["group"] for case in FILE["cases"]}))
def test_a_wrong_expectation_is_reported(group):
    def disturb(x):
        if isinstance(x, dict):
            return {k: disturb(v) if k != "index" else v for k, v in x.items()}
        if isinstance(x, list):
            return [disturb(v) for v in x] or [7]
        return f"{x}!" if isinstance(x, str) else (not x) if isinstance(x, bool) else x + 0.01

    case = copy.deepcopy(next(case for case in FILE["cases"] if case["group"] == group))
    for key in case["expected"]:
        wrong = {**case, "expected": {key: disturb(case["expected"][key])}}
        assert check_case(wrong, "float64", FILE["tolerance"]), key


def test_dtype_of_the_case_goes_before_that_of_the_file():
    assert case_dtype({"dtype": "float32"}, {"dtype": "float64"}) == "float32"
    assert case_dtype({}, {"dtype": "float32"}) == "float32"


@pytest.mark.slow
def test_command_line_reports_failures(tmp_path):
    case = next(case for case in FILE["cases"] if case["group"] == "continual")
    wrong = copy.deepcopy(case)
    wrong["expected"]["average_accuracy"] += 1e-6
    path = tmp_path / "unseen.json"
    path.write_text(json.dumps({"dtype": "float64", "cases": [case, wrong]}))
    done = subprocess.run([sys.executable, "-m", "tests.golden", path], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1 passed, 1 failed"
    assert done.returncode == 1
