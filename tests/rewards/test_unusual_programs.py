from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lit_sdpo.rewards.programs.verifier import CodeTests
from tests.rewards.unusual_programs import read

ENTRIES = read()
#: What stand-ins cannot show: objects of the test in the program, and what a test arranges in its own process.
ABSTAIN = {
    "test's own class", "test's own class, called", "seeded", "file", "input replaced", "asynchronous time limit",
    "warnings", "name of the test", "deque class",
}  # fmt: skip


def in_one_process(program, test):
    """Whether a test goes through in plain Python, in a process that what it changes dies with."""
    done = subprocess.run([sys.executable, "-I", "-c", f"{program}\n{test}"], capture_output=True, timeout=60)
    return done.returncode == 0


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in ABSTAIN and "input" not in name])
@pytest.mark.filterwarnings("ignore")
def test_the_table_says_what_plain_python_says(name):
    test, right, wrong = ENTRIES[name]
    assert in_one_process(right, test)
    assert not in_one_process(wrong, test)


@pytest.mark.slow
def test_unusual_programs(bubblewrap):
    check = CodeTests()

    def score(entry):
        program, test = entry
        tests = {"testtype": "code", "inputs": [test], "outputs": [""], "fn_name": "f", "time_limit": 5.0}
        return check.judge(f"```python\n{program}\n```", json.dumps(tests))

    pairs = [(name, side) for name in ENTRIES for side in ("right", "wrong")]
    with ThreadPoolExecutor(2) as threads:
        verdicts = threads.map(score, [(getattr(ENTRIES[name], side), ENTRIES[name].test) for name, side in pairs])
    scores = dict(zip(pairs, verdicts, strict=True))
    check.examiners.close()
    assert [(pair, verdict) for pair, verdict in scores.items() if verdict.score == float(pair[1] == "wrong")] == []
    assert {name for (name, side), verdict in scores.items() if verdict.score is None} == ABSTAIN
    assert all(verdict.feedback for verdict in scores.values() if verdict.score is None)
