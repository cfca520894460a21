from __future__ import annotations

import json

import pytest

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards import sandbox as sandbox_module
from lit_sdpo.rewards.cell.limits import landlock_version
from lit_sdpo.rewards.code import CodeTests, last_program, share_passed
from lit_sdpo.rewards.sandbox import Sandbox

ADD = {"testtype": "code", "inputs": ["assert add(1, 2) == 3", "assert add(4, 4) == 8"], "outputs": ["", ""]}
TOTAL = {"testtype": "functional", "fn_name": "total", "inputs": ["[1, 2]", "[]"], "outputs": ["3", "0"]}
DOUBLE = {"testtype": "stdin", "inputs": ["3\n", "-4\n"], "outputs": ["6\n", "-8\n"]}
SUM = {"testtype": "code", "fn_name": "sum", "inputs": ["assert sum(2, 3) == 5"], "outputs": [""]}
LOOP = {"testtype": "code", "inputs": ["for i in range(3):\n    assert add(i, i) == 2 * i"], "outputs": [""]}


def judge(tests, program):
    return CodeTests().judge(f"```python\n{program}\n```", json.dumps({"time_limit": 2.0, "context": "", **tests}))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a"),
        ("```\na\n```", "a"),
        ("```Python\r\na\r\n```\r\n", "a"),
        ("```python\na\n```\n```python\nb\n```", "b"),
        ("```python\na\n```\n```text\nb\n```", "a"),
        ("```bash\nb\n```", None),
        ("```python\na", None),
        ("a", None),
    ],
)
def test_the_last_python_block(text, program):
    assert last_program(text) == program


@pytest.mark.parametrize(
    ("tests", "program", "score"),
    [
        (ADD, "def add(a, b):\n    return a + b", 1.0),
        (ADD, "print('noise')\nadd = lambda a, b: a + b", 1.0),
        (ADD, "def add(a, b):\n    return 3", 0.0),
        (ADD, "def add(a, b) return", 0.0),
        (ADD, "import sys\nsys.exit(0)", 0.0),
        (ADD, "import os\ndef add(a, b):\n    os._exit(0)", 0.0),
        (ADD, "class Any:\n    __eq__ = lambda self, other: True\ndef add(a, b):\n    return Any()", 0.0),
        (ADD, "class I(int):\n    __eq__ = lambda self, other: True\ndef add(a, b):\n    return I(0)", 0.0),
        (ADD, "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    raise SystemExit", 1.0),
        (SUM, "def sum(a, b):\n    return a + b", 1.0),
        (LOOP, "def add(a, b):\n    return a + b", 1.0),
        (LOOP, "def add(a, b):\n    return 0", 0.0),
        (LOOP, "import os\ndef add(a, b):\n    os._exit(0)", 0.0),
        (TOTAL, "def total(xs):\n    print('noise')\n    return sum(xs)", 1.0),
        (TOTAL, "import json\njson.loads = json.dumps = lambda *a, **k: '3'\ndef total(xs):\n    return 3", 0.0),
        (TOTAL, "def total(xs):\n    return bool(xs)", 0.0),
        (DOUBLE, "print(2 * int(input()), '')", 1.0),
        (DOUBLE, "if __name__ == '__main__':\n    print(2 * int(input()))", 1.0),
        (DOUBLE, "print(2 * int(input('n? ')))", 0.0),
        (DOUBLE, "print(2 * int(input()))\nraise RuntimeError", 0.0),
    ],
)
def test_programs(bubblewrap, tests, program, score):
    assert judge(tests, program).score == score


@pytest.mark.parametrize("tests", [ADD, LOOP, TOTAL, DOUBLE])
def test_a_program_without_end_is_stopped(bubblewrap, tests):
    verdict = judge(tests, "while True:\n    pass")
    assert verdict.score == 0.0
    assert "time limit" in verdict.feedback


FORMS = {
    "data": ("assert f(x=1) == [1, {'a': (1.5, None)}, {1, 2}, b'x', 2j, frozenset([1])]",
             "def f(x):\n    return [1, {'a': (1.5, None)}, {2, 1}, b'x', 2j, frozenset([1])]"),
    "tolerance": ("import math\nassert math.isclose(f(2), 1.41421356, rel_tol=1e-6)", "def f(x):\n    return x ** 0.5"),
    "module of the program": ("assert math.fabs(f(2)) == 2", "import math\ndef f(x):\n    return -x"),
    "exception": ("try:\n    f(0)\n    assert 0\nexcept ZeroDivisionError as error:\n    assert 'zero' in str(error)",
                  "def f(x):\n    return 1 / x"),
    "callback": ("assert f(lambda n: n + 1, [1, 2]) == [2, 3]", "def f(g, xs):\n    return [g(x) for x in xs]"),
    "iterator": ("assert list(f(3)) == [0, 1, 2]", "def f(n):\n    yield from range(n)"),
    "in place": ("xs = [3, 1, 2]\nassert f(xs) is None and xs == [1, 2, 3]", "def f(xs):\n    xs.sort()"),
    "objects": ("p = Pair(1, b=2)\np.a += 4\nassert (p + p).b == 4 and str(p) == '5-2' and f(p) == 7 and p != 3",
                "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
                "    def __add__(self, other):\n        return Pair(self.a + other.a, self.b + other.b)\n"
                "    def __str__(self):\n        return f'{self.a}-{self.b}'\ndef f(p):\n    return p.a + p.b"),
    "exact numbers": ("from decimal import Decimal\nfrom fractions import Fraction\n"
                      "assert f(2) == [Decimal('0.5'), Fraction(1, 2), 1 << 5000, range(2)]",
                      "from decimal import Decimal\nfrom fractions import Fraction\n"
                      "def f(n):\n    return [Decimal('0.5'), Fraction(1, n), 1 << 5000, range(n)]"),
    "types": ("assert f(3, int) and not f(3, str)", "def f(x, kind):\n    return isinstance(x, kind)"),
    "state": ("assert [f(), f()] == [1, 2]", "n = 0\ndef f():\n    global n\n    n += 1\n    return n"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_tests_run_apart_from_the_program(bubblewrap, form):
    test, program = FORMS[form]
    tests = {"testtype": "code", "inputs": [test], "outputs": [""]}
    verdict = judge(tests, program)
    assert verdict.score == 1.0, verdict.feedback
    assert judge(tests, "def f(*a, **k):\n    return 0\nclass Pair:\n    pass").score == 0.0


def test_a_test_that_cannot_be_run_apart_abstains(bubblewrap):
    tests = {"testtype": "code", "inputs": ["class Node:\n    pass\nassert f(Node()) == 1"], "outputs": [""]}
    assert judge(tests, "def f(node):\n    return 1").flags == ("verifier_failed", "verifier_failed:test")


def test_a_method_of_solution_is_found(bubblewrap):
    program = "class Solution:\n    def total(self, xs):\n        return sum(xs)"
    assert judge(TOTAL, program).score == 1.0


def test_feedback_names_the_test_and_the_error(bubblewrap):
    assert judge(ADD, "def add(a, b):\n    return [][a]").feedback == (
        "Test 1 of 2: the program raised IndexError in line 2: list index out of range"
    )
    wrong = judge(ADD, "def add(a, b):\n    return 3")
    assert wrong.feedback == "Test 2 of 2: add(4, 4) returned 3, which is wrong."
    assert wrong.flags == ("passed:1/2",)
    assert judge(TOTAL, "def total(xs):\n    return 0").feedback == (
        "Test 1 of 2: total([1, 2]) returned 0, which is wrong."
    )
    assert judge(DOUBLE, "print(3)").feedback == "Test 1 of 2: For the input '3', it printed '3', which is wrong."
    assert judge(DOUBLE, "x = int(input())\n1 / 0").feedback.endswith(
        "line 2, in <module>\nZeroDivisionError: division by zero"
    )


def test_tests_after_a_wrong_one_are_counted(bubblewrap):
    assert judge(ADD, "def add(a, b):\n    return 8").flags == ("passed:1/2",)
    assert judge(DOUBLE, "print(-8)").flags == ("passed:1/2",)
    flags = [(), ("passed:1/4",), ("no_answer",)]
    assert share_passed(["p"] * 3, ["c"] * 3, flags=flags, scores=[1.0, 0.0, None]) == [1.0, 0.25, None]


def test_a_row_without_tests_abstains():
    assert judge({"testtype": "code", "inputs": [], "outputs": []}, "x = 1").score is None


def test_input_and_output_larger_than_a_pipe(bubblewrap):
    text = "x" * 900_000
    tests = {"testtype": "stdin", "inputs": [text + "\n"], "outputs": [text], "time_limit": 20.0}
    assert judge(tests, "print(input())").score == 1.0
    assert "too much output" in judge(tests, "print(input() * 2)").feedback


def test_v04_without_bubblewrap_nothing_runs(monkeypatch):
    sandbox_module._check_bubblewrap.cache_clear()
    monkeypatch.setattr(sandbox_module.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install bubblewrap"), Sandbox().open({}, cpu_seconds=1):
        pass
    with pytest.raises(UserError, match="apt-get install bubblewrap"):
        CodeTests()(
            "```python\nprint(1)\n```", Row(id="r", messages=[], ground_truth=json.dumps({**DOUBLE, "time_limit": 1.0}))
        )


@pytest.mark.parametrize("isolation", ["landlock", "rlimits"])
def test_weaker_isolation_has_to_be_named(monkeypatch, isolation):
    monkeypatch.delenv("LIT_SDPO_SANDBOX", raising=False)
    assert CodeTests().sandbox.isolation == "bubblewrap"
    monkeypatch.setenv("LIT_SDPO_SANDBOX", isolation)
    check = CodeTests()
    assert check.sandbox.isolation == isolation
    if isolation == "landlock" and landlock_version() < 1:
        with pytest.raises(UserError, match="Landlock"):
            check.prepare()
        return
    assert judge(DOUBLE, "print(2 * int(input()))").score == 1.0
    assert judge(ADD, "def add(a, b):\n    return a + b").score == 1.0
    assert judge(ADD, "import os\nos.fork()\ndef add(a, b):\n    return a + b").score == 0.0


def test_landlock_keeps_files(monkeypatch, tmp_path):
    if landlock_version() < 1:
        pytest.skip("needs Landlock")
    monkeypatch.setenv("LIT_SDPO_SANDBOX", "landlock")
    secret = tmp_path / "secret"
    secret.write_text("6")
    assert "PermissionError" in judge(DOUBLE, f"print(open({str(secret)!r}).read())").feedback
    assert "PermissionError" in judge(DOUBLE, f"open({str(tmp_path / 'new')!r}, 'w')").feedback
    assert (
        judge(DOUBLE, "open('own', 'w').write('x')\nprint(2 * int(input()) if open('own').read() else 0)").score == 1.0
    )


def test_no_such_isolation():
    with pytest.raises(UserError, match="Use bubblewrap, landlock or rlimits"):
        Sandbox("none")
