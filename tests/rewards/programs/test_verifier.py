from __future__ import annotations

import json
import threading

import pytest

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.programs.verifier import CodeTests, last_program, share_passed
from lit_sdpo.rewards.sandbox import sandbox as sandbox_module
from lit_sdpo.rewards.sandbox.inside.limits import landlock_version
from lit_sdpo.rewards.sandbox.sandbox import Sandbox

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


def code(*tests, **more):
    return {"testtype": "code", "fn_name": "f", "inputs": list(tests), "outputs": [""] * len(tests), **more}


@pytest.mark.parametrize(
    ("test", "program", "reason"),
    [
        ("class Node:\n    pass\nassert f(Node()) == 1", "def f(node):\n    return 1", "hand a Node to the program"),
        ("import nobody_has_this\nassert f() == 1", "def f():\n    return 1", "No module named 'nobody_has_this'"),
        ("assert open('/nowhere').read() == f()", "def f():\n    return 1", "FileNotFoundError"),
        ("import os\nos.kill(os.getpid(), 9)\nassert f() == 1", "def f():\n    return 1", "ended with status 9"),
    ],
)
def test_a_test_that_cannot_be_judged_abstains(bubblewrap, test, program, reason):
    verdict = judge(code(test), program)
    assert verdict.score is None
    assert verdict.flags == ("verifier_failed", "verifier_failed:test")
    assert verdict.feedback.startswith("Test 1 of 1 cannot be judged: ")
    assert reason in verdict.feedback


def test_judging_from_threads_that_end(bubblewrap):
    # The process that is kept for the next program ends with the thread that started it.
    check, verdicts = CodeTests(), []
    text, truth = "```python\ndef f():\n    return 1\n```", json.dumps({"time_limit": 2.0, **code("assert f() == 1")})
    for _ in range(3):
        thread = threading.Thread(target=lambda: verdicts.append(check.judge(text, truth)))
        thread.start()
        thread.join()
    check.examiners.close()
    assert [verdict.score for verdict in verdicts] == [1.0] * 3


def test_one_test_that_fails_decides_beside_one_that_cannot_be_judged(bubblewrap):
    verdict = judge(code("import nobody_has_this\nassert f() == 1", "assert f() == 2"), "def f():\n    return 1")
    assert verdict.score == 0.0
    assert verdict.feedback == "Test 2 of 2: f() returned 1, which is wrong."
    assert verdict.flags == ("passed:0/2",)


ANY = "class Any{base}:\n    __eq__ = __lt__ = __gt__ = __contains__ = lambda self, other: {answer}\n    {more}"
SURE = {
    "object": ANY.format(base="", answer="True", more="__sub__ = __abs__ = lambda self, *a: self"),
    "number": ANY.format(base="(int)", answer="True", more="__sub__ = lambda self, other: 0"),
    "text": ANY.format(base="(str)", answer="True", more="__hash__ = str.__hash__"),
    "list": ANY.format(base="(list)", answer="True", more="__len__ = lambda self: 1"),
    "dictionary": ANY.format(base="(dict)", answer="True", more="__len__ = lambda self: 1"),
    "by number": ANY.format(base="", answer="1", more="__hash__ = lambda self: hash(5)"),
    "library": "from unittest.mock import ANY\ndef Any(): return ANY",
}


@pytest.mark.parametrize("expected", ["5", "'a'", "[5]", "(5, 'a')", "{5}", "{5: 'a'}", "None", "1.5"])
def test_what_equals_everything_equals_nothing(bubblewrap, expected):
    tests = code(f"assert f() == {expected}", f"assert [f()] == [{expected}]", f"assert f() in ({expected}, 7)")
    wrong = [name for name, program in SURE.items() if judge(tests, f"{program}\ndef f(): return Any()").score != 0.0]
    assert wrong == []


@pytest.mark.parametrize(
    ("test", "body"),
    [
        ("assert f() == 5", "__eq__ = lambda self, other: other == 5"),
        ("assert f() == 5", "__eq__ = lambda self, other: isinstance(other, int) and other < 9"),
        ("assert f() < 5", "__lt__ = lambda self, other: other > 0"),
        ("assert abs(f() - 5) < 1e-6", "__sub__ = lambda self, other: 0"),
        ("assert f() % 5 == 0", "__mod__ = lambda self, other: 0"),
        ("assert 5 in f()", "__contains__ = lambda self, other: isinstance(other, int)"),
        ("assert f().startswith('ab')", "startswith = lambda self, text: True"),
        ("with f() as m:\n    assert m == 5", "__enter__ = lambda self: 4\n    __exit__ = lambda self, *a: True"),
    ],
)
@pytest.mark.parametrize("base", ["", "(int)", "(str)"])
def test_an_object_never_decides_by_itself(bubblewrap, test, body, base):
    made = "Any(7)" if base else "Any()"
    assert judge(code(test), f"class Any{base}:\n    {body}\n    __hash__ = None\ndef f(): return {made}").score != 1.0


def test_expected_results_never_reach_the_program(bubblewrap):
    spy = "class Spy:\n    def __eq__(self, other):\n        raise ValueError(repr(other))\ndef f(): return Spy()"
    for test in ("assert f() == 918273", "assert f() != 918273", "assert [f()] == [918273]", "assert f() in (918273,)"):
        assert "918273" not in judge(code(test), spy).feedback
    seen = "seen = []\nclass Spy:\n    def __eq__(self, other):\n        seen.append(other)\n        return False\n"
    verdict = judge(code("f() == 918273\nassert 918273 in seen"), f"{seen}def f(): return Spy()")
    assert verdict.score is None  # In one process the object sees it, here it does not.


def test_a_loop_of_the_test_is_not_ended_by_the_program(bubblewrap):
    assert judge(code("assert all(map(f, [1, 2]))"), "def f(x):\n    raise StopIteration").score == 0.0
    assert judge(code("assert all(f(x) == 1 for x in [1, 2])"), "def f(x):\n    raise StopIteration").score == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "program"),
    [
        ("x = list(range(10 ** 6))\nassert f(x) == sum(x)", "def f(x):\n    return sum(x)"),
        ("assert f(10 ** 6) == list(range(10 ** 6))", "def f(n):\n    return list(range(n))"),
        (
            "x = [n / 7 for n in range(10 ** 6)]\nassert f(x) is x and x[0] == 1.0",
            "def f(x):\n    x[0] = 1.0\n    return x",
        ),
        ("assert all(f(n) == n % 7 for n in range(10 ** 5))", "def f(n):\n    return n % 7"),
    ],
)
def test_values_on_their_way_are_not_the_programs_time(bubblewrap, test, program):
    verdict = judge(code(test, time_limit=3.0), program)
    assert verdict.score == 1.0, verdict.feedback


@pytest.mark.parametrize(
    "program",
    [
        "import time\ndef f(n):\n    time.sleep(0.1)\n    return n",
        "import sys, time\nsys.modules['cell.peer'].perf_counter = float\ndef f(n):\n    time.sleep(0.1)\n    return n",
        "import time\ntime.sleep(3)\ndef f(n):\n    return n",
    ],
)
def test_time_adds_up_over_calls_whatever_the_program_says(bubblewrap, program):
    verdict = judge(code("assert [f(n) for n in range(25)] == list(range(25))", time_limit=1.0), program)
    assert verdict.score == 0.0
    assert "time limit" in verdict.feedback


def test_feedback_shows_arguments_as_they_were_given(bubblewrap):
    sort = "def f(x):\n    x.sort()"
    assert judge(code("x = [2, 1]\nassert f(x) == [1, 2]"), sort).feedback.endswith(
        "f([2, 1]) returned None, which is wrong."
    )
    tests = {"testtype": "functional", "fn_name": "f", "inputs": ["[2, 1]"], "outputs": ["[1, 2]"]}
    assert judge(tests, sort).feedback.endswith("f([2, 1]) returned None, which is wrong.")


@pytest.mark.parametrize("tests", [ADD, TOTAL, DOUBLE])
def test_a_crash_is_named_by_its_signal(bubblewrap, tests):
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    assert judge(tests, crash).feedback.endswith("the program was ended by SIGSEGV.")


def test_annotations_of_a_program_are_what_they_say(bubblewrap):
    program = "def f(x: int) -> str:\n    return ''"
    assert judge(code("assert f.__annotations__ == {'x': int, 'return': str}"), program).score == 1.0


def test_the_checker_of_a_row(bubblewrap):
    tests = {"testtype": "stdin", "inputs": [""], "outputs": ["0.33333333"]}
    assert judge(tests, "print()\nprint(1 / 3)").score == 1.0
    assert judge({**tests, "checker": "livecodebench"}, "print(1 / 3)").score == 0.0
    assert judge({**tests, "checker": "livecodebench"}, "print(' .333333330')").score == 1.0


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


def test_memory_and_files_have_the_limits_that_are_asked_for(monkeypatch):
    program = "def f(n):\n    return len(bytearray(n << 20))"
    row = {"testtype": "functional", "fn_name": "f", "inputs": ["300"], "outputs": [str(300 << 20)]}
    assert judge(row, program).score == 1.0
    monkeypatch.setenv("LIT_SDPO_SANDBOX_MEMORY", "256")
    verdict = judge(row, program)
    assert verdict.score == 0.0
    assert "MemoryError" in verdict.feedback
    monkeypatch.setenv("LIT_SDPO_SANDBOX_FILE", "1")
    assert CodeTests().sandbox.max_file == 1 << 20


@pytest.mark.parametrize("name", ["LIT_SDPO_SANDBOX_MEMORY", "LIT_SDPO_SANDBOX_FILE"])
@pytest.mark.parametrize("text", ["", "0", "-1", "1e3", "much", "99999999999999999999"])
def test_limits_that_are_no_numbers(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=name):
        CodeTests()


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
