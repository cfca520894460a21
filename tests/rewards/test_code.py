from __future__ import annotations

import json

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.rewards import sandbox as sandbox_module
from lit_sdpo.rewards.code import CodeTests, last_program, take_out_expected
from lit_sdpo.rewards.sandbox import Sandbox

ADD = {"testtype": "code", "inputs": ["assert add(1, 2) == 3", "assert add(4, 4) == 8"], "outputs": ["", ""]}
TOTAL = {"testtype": "functional", "fn_name": "total", "inputs": ["[1, 2]", "[]"], "outputs": ["3", "0"]}
DOUBLE = {"testtype": "stdin", "inputs": ["3\n", "-4\n"], "outputs": ["6\n", "-8\n"]}
LOOP = {"testtype": "code", "inputs": ["for i in range(3):\n    assert add(i, i) == 2 * i"], "outputs": [""]}


def judge(tests, program):
    return CodeTests().judge(f"```python\n{program}\n```", json.dumps({"time_limit": 1.0, "context": "", **tests}))


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
    ("test", "values"),
    [
        ("assert f(1) == [1, 2]", [[1, 2]]),
        ("assert f(1) == -1.5, 'message'", [-1.5]),
        ("assert f(1) == g(1)", []),
        ("assert f(1)", []),
        ("assert f(1) < 2", []),
        ("for i in (1, 2):\n    assert f(i) == 1", []),
        ("def check(c):\n    assert c(1) == 1\n    assert c(2)\ncheck(f)", [1]),
        ("def check(c):\n    assert c(1) == 1\ncheck(f)\ncheck(g)", []),
        ("assert f(", []),
    ],
)
def test_expected_literals_are_taken_out(test, values):
    rewritten, found = take_out_expected(test)
    assert found == values
    assert rewritten.count("__report__") == len(values)


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


def test_feedback_names_the_test_and_the_error_only(bubblewrap):
    assert judge(ADD, "def add(a, b):\n    return [][a]").feedback == (
        "Test 1 of 2: the test raised IndexError: list index out of range"
    )
    wrong = judge(ADD, "def add(a, b):\n    return 3")
    assert wrong.feedback == "Test 2 of 2: the function returned a wrong value."
    assert wrong.flags == ("passed:1/2",)


def test_a_row_without_tests_abstains():
    assert judge({"testtype": "code", "inputs": [], "outputs": []}, "x = 1").score is None


ATTACKS = {
    "file of the machine": "print(open('/etc/passwd').read())",
    "write outside": "open('/usr/x', 'w')",
    "own harness": "open('/harness.py', 'w')",
    "network": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
    "memory": "x = bytearray(4 << 30)",
    "large file": "open('/tmp/x', 'wb').write(bytes(32 << 20))",
    "limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "processes of the machine": "import os; assert [p for p in os.listdir('/proc') if p.isdigit() and int(p) > 9]",
    "secrets": "import os; assert 'LIT_SDPO_SECRET' in os.environ",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_program_cannot_reach(bubblewrap, attack, monkeypatch):
    monkeypatch.setenv("LIT_SDPO_SECRET", "1")
    outcome = bubblewrap.run({"kind": "script", "program": ATTACKS[attack]}, seconds=5)
    assert outcome.exit_code not in (0, None)


def test_output_without_end_is_cut(bubblewrap):
    outcome = bubblewrap.run({"kind": "script", "program": "while True:\n    print('x' * 9999)"}, seconds=20)
    assert outcome.ended_by == "output"
    assert len(outcome.output) == bubblewrap.max_output


def test_input_and_output_larger_than_a_pipe(bubblewrap):
    text = b"x" * 500_000
    outcome = bubblewrap.run({"kind": "script", "program": "print(input())"}, text + b"\n", seconds=20)
    assert outcome.output == text + b"\n"


def test_without_bubblewrap_nothing_runs(monkeypatch):
    sandbox_module._check_bubblewrap.cache_clear()
    monkeypatch.setattr(sandbox_module.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install bubblewrap"):
        Sandbox().run({"kind": "script", "program": "1"}, seconds=1)
    with pytest.raises(UserError, match="apt-get install bubblewrap"):
        judge(DOUBLE, "print(1)")


def test_weaker_isolation_has_to_be_named(monkeypatch):
    monkeypatch.delenv("LIT_SDPO_SANDBOX", raising=False)
    assert CodeTests().sandbox.isolation == "bubblewrap"
    monkeypatch.setenv("LIT_SDPO_SANDBOX", "rlimits")
    assert CodeTests().sandbox.isolation == "rlimits"
    assert judge(DOUBLE, "print(2 * int(input()))").score == 1.0
    with pytest.raises(UserError, match="Use bubblewrap or rlimits"):
        Sandbox("none")
