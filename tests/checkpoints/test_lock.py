"""One process per folder; the test of two real processes is among the faults."""

import json
import os
import subprocess
import sys

import pytest

from lit_sdpo.checkpoints.lock import RunLock
from lit_sdpo.errors import UserError
from lit_sdpo.processes import start_ticks

HOLD = """
import sys, time
from pathlib import Path
from lit_sdpo.checkpoints.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, holder, caplog):
    with pytest.raises(UserError, match=f"process {holder.pid} on"):
        RunLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    lock = RunLock(tmp_path)
    with caplog.at_level("INFO"):
        lock.acquire()
    assert f"Process {holder.pid} " in caplog.text
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "refused"),
    [({}, True), ({"ticks": 1}, False), ({"pid": 2**22 + 1}, False), ({"host": "elsewhere"}, True)],
)
def test_without_locks_of_the_system_the_named_process_decides(tmp_path, monkeypatch, change, refused):
    def unsupported(*args):
        raise OSError(37, "No locks available")

    lock = RunLock(tmp_path)
    lock.acquire()
    owner = json.loads(lock.path.read_text())
    assert owner["ticks"] == start_ticks(os.getpid())
    lock.path.write_text(json.dumps({**owner, **change}))
    monkeypatch.setattr("fcntl.lockf", unsupported)
    other = RunLock(tmp_path)
    if refused:
        with pytest.raises(UserError, match="another run"):
            other.acquire()
    else:
        other.acquire()
        other.release()
    lock.release()


def test_a_lock_file_that_says_nothing_is_taken_over(tmp_path):
    (tmp_path / "run.lock").write_text("garbage")
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
