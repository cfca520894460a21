from __future__ import annotations

import json
import os
import socket

import pytest

from lit_sdpo.checkpoints.lock import RunLock
from lit_sdpo.processes import start_ticks
from lit_sdpo.sweep.record import write_record
from lit_sdpo.sweep.state import look, set_aside
from tests.sweep.stub import CONFIG, begun, checkpoint, job

OTHER = {**CONFIG, "model": {"class_path": "GRPO", "init_args": {}}}


@pytest.fixture
def one(tmp_path):
    return job(tmp_path)


def lock(job, **changes):
    this = {"pid": os.getpid(), "host": socket.gethostname(), "ticks": start_ticks(os.getpid())}
    (job.folder / "run.lock").write_text(json.dumps({**this, **changes}))


def test_nothing_there(one):
    assert look(one).state == "new"


def test_begun(one):
    begun(one)
    checkpoint(one, "stage=0-step=3.ckpt")
    assert look(one).state == "unfinished"


def test_finished_elsewhere(one):
    begun(one)
    checkpoint(one, "stage=1-step=6.ckpt")
    assert look(one).state == "finished"


def test_the_last_checkpoint_alone_is_not_enough(one):
    """Its process died before it gave the folder back, so what follows training may be missing."""
    begun(one)
    checkpoint(one, "stage=1-step=6.ckpt")
    lock(one, pid=2**22 + 1)
    assert look(one).state == "unfinished"


def test_half_written_checkpoint(one):
    begun(one)
    checkpoint(one, "stage=1-step=6.ckpt")
    (one.folder / "checkpoints" / "stage=1-step=6.ckpt.json").unlink()
    assert look(one).state == "unfinished"


def test_running_elsewhere(one):
    begun(one)
    with_lock = RunLock(one.folder)
    with_lock.acquire()
    assert look(one).state == "running"
    with_lock.release()
    assert look(one).state == "unfinished"
    lock(one, host="another")
    assert look(one).state == "running"
    lock(one, ticks=1)  # another process has the number now
    assert look(one).state == "unfinished"


@pytest.mark.parametrize(
    ("state", "expected"), [("finished", "finished"), ("failed", "failed"), ("interrupted", "new")]
)
def test_recorded(one, state, expected):
    write_record(one, state, 0, 3.0, 2.0)
    assert look(one).state == expected
    assert look(one).seconds == (3.0, 2.0)


def test_failure_after_the_last_checkpoint(one):
    begun(one)
    checkpoint(one, "stage=1-step=6.ckpt")
    write_record(one, "failed", 1, 3.0, 2.0)
    assert look(one).state == "failed"
    checkpoint(one, "stage=1-step=6.ckpt")  # repeated elsewhere
    later = (one.folder / "sweep.json").stat().st_mtime + 5
    os.utime(one.folder / "checkpoints" / "stage=1-step=6.ckpt.json", (later, later))
    assert look(one).state == "finished"


@pytest.mark.parametrize("state", [None, "finished", "failed"])
def test_another_configuration(one, tmp_path, state):
    begun(one)
    if state:
        write_record(one, state, 0, 3.0, 2.0)
    found = look(job(tmp_path, config=OTHER))
    assert found.state == "changed"
    assert "model.class_path: recorded SDPO, now GRPO" in found.changes


def test_the_latest_configuration_counts(one, tmp_path):
    begun(one)
    (one.folder / "config_1.yaml").write_text(json.dumps(OTHER))
    assert look(one).state == "unfinished"
    assert look(job(tmp_path, config=OTHER)).state == "changed"


def test_set_aside(one):
    for number in (1, 2):
        begun(one)
        moved = set_aside(one)
        assert moved == one.output / ".replaced" / "one" / f"seed=0-{number}"
        assert (moved / "config.yaml").exists()
        assert look(one).state == "new"
