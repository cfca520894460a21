from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_sdpo.data.task import Row, Task
from lit_sdpo.rewards.pool import POOL, Pooled, WorkerPool, verify_all
from lit_sdpo.rewards.registry import verifier
from tests.rewards import pooled

NAME = "tests.rewards.pooled.obedient"


def row(name="r"):
    return Row(id=name, messages=[], ground_truth="", verifier=NAME)


class Obedient(Task):
    def rows(self, split):
        return []

    def verify(self, completion, row):
        return verifier(row.verifier)(completion, row)


def verify(completions):
    return verify_all(Obedient("t"), completions, [row(str(n)) for n in range(len(completions))])


def test_r06_verdicts_come_in_order_and_nothing_waits_for_a_hung_one():
    verify(["warm", "up"])
    mark = f"mark{os.getpid()}"
    started = time.monotonic()
    verdicts = verify(["fine", f"hang {mark}", "sleep 0.3", "fine", "crash", "fine"])
    seconds = time.monotonic() - started
    assert [v.feedback for v in verdicts] == ["0", "", "2", "3", "", "5"]
    assert [v.score for v in verdicts] == [1.0, None, 1.0, 1.0, None, 1.0]
    assert verdicts[1].flags == ("verifier_failed", "verifier_failed:timed_out")
    assert verdicts[4].flags == ("verifier_failed", "verifier_failed:crashed")
    assert 2.0 <= seconds < 30
    deadline = time.monotonic() + 10  # a killed process takes a moment to go
    while left := [f for f in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(f)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _read(file):
    try:
        return file.read_text()
    except OSError:
        return ""


def test_the_time_of_one_completion_does_not_count_for_the_next():
    assert [v.score for v in verify(["sleep 1.2"] * 4)] == [1.0] * 4


@pytest.mark.parametrize(
    ("completion", "reason"),
    [("raise secret", "KeyError"), ("number", "TypeError"), ("high", "TypeError"), ("exit", "crashed")],
)
def test_r07_a_failure_is_flagged_and_never_a_score(completion, reason):
    verdict = verify([completion])[0]
    assert verdict.score is None
    assert verdict.flags == ("verifier_failed", f"verifier_failed:{reason}")
    assert "secret" not in verdict.feedback


KILLED = """
import sys
from lit_sdpo.data.task import Row
from lit_sdpo.rewards.registry import verifier
name = "tests.rewards.pooled.forever"
verifier(name)(sys.argv[1], Row("a", [], "", name))
"""


@pytest.mark.parametrize(("how", "processes"), [("python", 1), ("regex", 1), ("child", 2)])
def test_r14_a_worker_ends_with_the_process_that_started_it(how, processes):
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", KILLED, how], stdout=subprocess.PIPE, text=True, cwd=root) as started:
        pids = [int(started.stdout.readline()) for _ in range(processes)]
        started.kill()
        deadline = time.monotonic() + 20
        while left := [pid for pid in pids if _runs(pid)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def _runs(pid):
    state = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return bool(state) and state[0] != "Z"


def test_the_first_trace_is_shown(caplog):
    POOL._told.clear()
    verify(["raise here", "raise here"])
    assert caplog.text.count("KeyError: 'here'") == 1


def test_workers_do_without_torch():
    assert verify(["torch"])[0].score == 0.0


def test_a_verifier_runs_elsewhere_unless_it_says_otherwise():
    assert isinstance(verifier(NAME), Pooled)
    assert verify(["pid"])[0].feedback != str(os.getpid())
    assert verifier("tests.rewards.pooled.trusted")("x", row()).feedback == str(os.getpid())
    assert verifier("tests.rewards.pooled.trusted") is pooled.trusted


def test_workers_are_used_again_and_gone_when_closed():
    pool = WorkerPool(1)
    check = Pooled(NAME, pooled.obedient, pool)
    first, second = (check("pid", row()).feedback for _ in range(2))
    assert first == second
    assert Path(f"/proc/{first}").exists()
    pool.close()
    assert not Path(f"/proc/{first}").exists()
    assert check("pid", row()).feedback != first
    pool.close()


def test_cheap_verifiers_stay_in_this_process(monkeypatch):
    class Cheap(Obedient):
        def verify(self, completion, row):
            return pooled.trusted(completion, row)

    monkeypatch.setattr("lit_sdpo.rewards.pool.ThreadPoolExecutor", None)
    rows = [Row(id="r", messages=[], ground_truth="")]
    assert verify_all(Cheap("t"), ["x"], rows)[0].feedback == str(os.getpid())
