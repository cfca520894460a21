from __future__ import annotations

import json
import signal

import pytest

from lit_sdpo.sweep.execution import Execution
from lit_sdpo.sweep.state import look
from tests.sweep.stub import begun, checkpoint, job

WRITE = "import os; sum(range(5_000_000)); print(os.environ['OMP_NUM_THREADS'])"
#: Waits until as many processes as are to run at once have begun, and says how many have not ended.
TOGETHER = """
import os, sys, time
folder, name, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
open(os.path.join(folder, name + ".on"), "w").close()
count = lambda kind: sum(file.endswith(kind) for file in os.listdir(folder))
while count(".on") < wanted:
    time.sleep(0.01)
print("at once", count(".on") - count(".off"))
time.sleep(0.1)
open(os.path.join(folder, name + ".off"), "w").close()
"""
#: Sends a signal to the sweep once it can answer it, and leaves as a run does: saved, with 128 and the number.
SIGNALS = """
import os, signal, sys, time
def leave(number, frame):
    print("saved", flush=True)
    os._exit(128 + number)
signal.signal(signal.SIGINT, leave)
signal.signal(signal.SIGTERM, leave)
os.kill(os.getppid(), {number})
time.sleep(60)
"""


def log(job):
    return (job.folder / "log.txt").read_text()


def record(job):
    return json.loads((job.folder / "sweep.json").read_text())


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [job(tmp_path, "a/b", WRITE), job(tmp_path, "a/b", WRITE, seed=1)]
    outcomes = Execution(jobs, 2).run()
    assert [outcome.state for outcome in outcomes] == ["finished", "finished"]
    assert log(jobs[1]).splitlines()[-1] == "1"
    assert record(jobs[0])["exit_code"] == 0
    assert record(jobs[0])["versions"]["lit-sdpo"]
    assert record(jobs[0])["cpu_seconds"] > 0
    assert "2/2 finished" in capsys.readouterr().out
    times = [(file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")]
    assert [o.state for o in Execution([*jobs, job(tmp_path, "c", WRITE)], 2).run()] == ["finished"] * 3
    assert [(file, file.stat().st_mtime_ns) for file, _ in times if file != tmp_path] == times


def test_a_failure_does_not_stop_the_others(tmp_path, capsys):
    jobs = [job(tmp_path, "bad", "raise SystemExit(3)"), job(tmp_path, "good", "print(1)")]
    assert [outcome.state for outcome in Execution(jobs, 1).run()] == ["failed", "finished"]
    assert record(jobs[0])["exit_code"] == 3
    output = capsys.readouterr().out
    assert "bad/seed=0 with exit code 3" in output
    assert "1/2 finished, 1 failed" in output
    mended = [job(tmp_path, "bad", "print('mended')"), jobs[1]]
    assert [outcome.state for outcome in Execution(mended, 1).run()] == ["finished", "finished"]
    assert log(mended[0]).count("$ ") == 2


@pytest.mark.parametrize("slots", [1, 2])
def test_slots(tmp_path, slots):
    marks = tmp_path / "marks"
    marks.mkdir()
    jobs = [job(tmp_path, f"r{n}", TOGETHER) for n in range(4)]
    for each in jobs:
        object.__setattr__(each, "command", (*each.command, str(marks), each.run, str(slots)))
    Execution(jobs, slots).run()
    assert {log(each).splitlines()[-1] for each in jobs[:slots]} == {f"at once {slots}"}
    assert all(int(log(each).split()[-1]) <= slots for each in jobs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(tmp_path, number, capsys):
    before = signal.getsignal(number)
    jobs = [job(tmp_path, "a", SIGNALS.format(number=int(number))), job(tmp_path, "b", "print(1)")]
    execution = Execution(jobs, 1)
    assert [outcome.state for outcome in execution.run()] == ["interrupted", "not started"]
    assert execution.ending == number
    assert signal.getsignal(number) is before
    assert log(jobs[0]).splitlines()[-1] == "saved"
    assert record(jobs[0])["state"] == "interrupted"
    assert number.name in capsys.readouterr().out
    seconds = record(jobs[0])["wall_seconds"]
    again = Execution([job(tmp_path, "a", "import time; time.sleep(0.3)")], 1).run()
    assert again[0].state == "finished"
    assert again[0].wall_seconds > max(seconds, 0.3)  # of both processes


def test_a_run_that_goes_on_keeps_its_folder(tmp_path, capsys):
    one = job(tmp_path)
    begun(one)
    checkpoint(one, "stage=0-step=3.ckpt")
    Execution([one], 1).run()
    assert "goes on" in capsys.readouterr().out
    assert (one.folder / "checkpoints" / "stage=0-step=3.ckpt").exists()


def test_a_run_without_checkpoint_begins_in_an_empty_folder(tmp_path):
    one = job(tmp_path)
    begun(one)
    Execution([one], 1).run()
    assert not (one.folder / "config.yaml").exists()
    assert (tmp_path / ".replaced" / "one" / "seed=0-1" / "config.yaml").exists()
    assert look(one).state == "finished"


def test_time_left(tmp_path):
    jobs = [job(tmp_path, "a"), job(tmp_path, "a", seed=1), job(tmp_path, "b")]
    execution = Execution(jobs, 1)
    assert execution._remaining() is None
    execution.outcomes[0] = Execution(jobs[:1], 1).run()[0]
    object.__setattr__(execution.outcomes[0], "wall_seconds", 40.0)
    assert execution._remaining() == 80.0
    execution.slots = 2
    assert execution._remaining() == 40.0
