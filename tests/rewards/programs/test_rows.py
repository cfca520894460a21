from __future__ import annotations

import json
import math

import pytest

from lit_sdpo.rewards.programs.rows import check_tests, read_tests
from lit_sdpo.rewards.programs.verifier import CodeTests

NAN = float("nan")
STDIN = {"testtype": "stdin", "inputs": ["1"], "outputs": ["2"], "time_limit": 5}
CODE = {"testtype": "code", "inputs": ["assert f(1) == 2"], "outputs": [""], "fn_name": "f", "time_limit": 5}
FUNCTION = {"testtype": "functional", "inputs": ["[1]\n2"], "outputs": ["3"], "fn_name": "f", "time_limit": 5}


def check(**truth):
    check_tests(read_tests(json.dumps(truth)))


@pytest.mark.parametrize(
    "truth", [STDIN, CODE, FUNCTION, {**STDIN, "checker": "livecodebench"}, {**CODE, "fn_name": None}]
)
def test_good_rows(truth):
    check(**truth)
    assert CodeTests().reference(json.dumps(truth), {"reference_solution": "x = 1\n"}) == "```python\nx = 1\n```"


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (STDIN, {"inputs": [1], "outputs": [2]}, '"inputs"'),
        (STDIN, {"inputs": "11", "outputs": "22"}, '"inputs"'),
        (STDIN, {"inputs": {"a": 1}, "outputs": {"b": 2}}, '"inputs"'),
        (STDIN, {"inputs": [], "outputs": []}, "no tests"),
        (STDIN, {"outputs": ["2", "3"]}, "not one output"),
        (STDIN, {"outputs": None}, '"outputs"'),
        (STDIN, {"testtype": "script"}, '"testtype"'),
        (STDIN, {"outputs": ["x" * (1 << 20) + "x"]}, '"outputs", entry 0 is longer'),
        (STDIN, {"checker": "mine"}, '"checker"'),
        (STDIN, {"context": "def ("}, '"context" is no Python'),
        (STDIN, {"context": 3}, '"context"'),
        *((STDIN, {"time_limit": limit}, '"time_limit"') for limit in (None, 0, -1, "5", True, [5], NAN, math.inf)),
        (FUNCTION, {"inputs": ["not json"]}, '"inputs", entry 0'),
        (FUNCTION, {"outputs": ["nope"]}, '"outputs", entry 0'),
        (FUNCTION, {"outputs": ["[1, NaN]"]}, "NaN equals nothing"),
        (FUNCTION, {"fn_name": ""}, '"fn_name"'),
        (FUNCTION, {"fn_name": "a b"}, '"fn_name"'),
        *((CODE, {"inputs": [test]}, message) for test, message in (
            ("assert (", "is no Python"),
            ("return f(1)", "is no Python"),
            ("", "asserts nothing"),
            ("x = f(1)", "asserts nothing"),
            ("assert True", "asserts nothing"),
            ("assert (f(1) == 2, 'wrong')", "asserts nothing"),
            ("def check(f):\n    assert f(1) == 2", "asserts nothing"),
            ("class T:\n    def test(self):\n        assert f(1) == 2", "asserts nothing"),
            ("assert 1 + 1 == 2", "uses nothing of the program"),
            ("import math\nassert math.sqrt(4) == 2", "uses nothing of the program"),
        )),
    ],
)  # fmt: skip
def test_rows_that_no_program_or_every_program_passes(base, change, message):
    with pytest.raises(ValueError, match=message):
        check(**{**base, **change})


@pytest.mark.parametrize(
    "test",
    [
        "def check(g):\n    assert g(1) == 2\ncheck(f)",
        "def check(g):\n    assert g(1) == 2\nfor g in [f]:\n    check(g)",
        "if f(1) != 2:\n    raise ValueError",
        "from unittest import *\nclass T(TestCase):\n    def test(self):\n        self.assertEqual(f(1), 2)\nmain()",
        "import numpy as np\nnp.testing.assert_allclose(f(1), 2)",
        "assert all(f(n) == n + 1 for n in range(9))",
        "@f\ndef g(x):\n    return x\nassert g(1) == 2",
    ],
)
def test_assertions_that_are_found(test):
    check(**{**CODE, "inputs": [test]})
