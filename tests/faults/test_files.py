"""F01 to F08 and F10: files under kills, full disks, missing permission, damage and malice."""

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.checkpoints.manifest import in_order
from lit_sdpo.checkpoints.writing import probe, remove_leftovers
from lit_sdpo.errors import UserError
from tests.faults.runs import model, stream, train

KILLS = 15
WRITER = """
import os, sys
from pathlib import Path
import torch
from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO
io, folder = SafeCheckpointIO(), Path(sys.argv[1])
print("ready", flush=True)
for _ in sys.stdin:  # a fresh process for each kill, without the imports
    if os.fork() == 0:
        for value in range(10**6):
            io.save_checkpoint({"w": torch.full((500_000,), float(value)), "value": value}, folder / "last.ckpt")
            if value == 0:
                print(os.getpid(), flush=True)
    else:
        os.wait()
"""


@contextmanager
def tmpfs(folder, size):
    """A small file system of its own, where this process may mount one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.name != "posix" or os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def load(path):
    return SafeCheckpointIO().load_checkpoint(path)


def kill_while_writing(folder, environment):
    moments = random.Random(0)
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as writer:
        assert writer.stdout.readline() == "ready\n"
        for _ in range(KILLS):
            writer.stdin.write("go\n")
            writer.stdin.flush()
            pid = int(writer.stdout.readline())
            time.sleep(moments.uniform(0, 0.2))
            os.kill(pid, signal.SIGKILL)
            checkpoint = load(folder / "last.ckpt")
            assert bool((checkpoint["w"] == checkpoint["value"]).all())
        writer.stdin.close()
    assert not list(folder.glob("*.corrupt"))


@pytest.mark.slow
def test_f01_kill_while_writing(tmp_path):
    kill_while_writing(tmp_path, {})
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if "tmp-" in path.name} == set()


@pytest.mark.slow
def test_f02_kill_while_writing_with_tmpdir_on_another_file_system(tmp_path):
    with tmpfs(tmp_path / "tmp", "20m") as elsewhere:
        kill_while_writing(tmp_path, {"TMPDIR": str(elsewhere)})
        assert not list(elsewhere.iterdir())


def check_full(folder, save):
    with pytest.raises(UserError, match=r"the disk is full: the checkpoint needs 2.0 MB, .* are free") as raised:
        save(2)
    assert str(folder / "last.ckpt") in str(raised.value)
    assert load(folder / "last.ckpt")["value"] == 1
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "last.ckpt.json"}


def saver(folder):
    return lambda value: SafeCheckpointIO().save_checkpoint(
        {"w": torch.zeros(500_000), "value": value}, folder / "last.ckpt"
    )


def test_f03_full_disk(tmp_path):
    with tmpfs(tmp_path / "small", "3m") as folder:
        saver(folder)(1)
        check_full(folder, saver(folder))
        with pytest.raises(UserError, match="the disk is full"):
            probe(folder, 2_000_000)


def test_f03_full_disk_patched(tmp_path, monkeypatch):
    saver(tmp_path)(1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lit_sdpo.checkpoints.writing.os.fsync", full)
    check_full(tmp_path, saver(tmp_path))


def test_f03_the_run_stops_or_goes_on(tiny, tmp_path, monkeypatch):
    def full(self, checkpoint, path, storage_options=None):
        raise UserError("the disk is full")

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", full)
    data = {"tasks": ["a"], "steps": 1, "eval_every": None}
    with pytest.raises(UserError, match="full"):
        train(tmp_path, model(tiny), stream(**data), checkpoint=StageCheckpoint())
    with pytest.warns(UserWarning, match="full"):
        trainer = train(tmp_path, model(tiny), stream(**data), checkpoint=StageCheckpoint(on_save_error="continue"))
    assert trainer.global_step == 1


def test_f04_no_permission_is_found_before_the_first_step(tiny, tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    steps = []
    module = model(tiny)
    monkeypatch.setattr(module, "training_step", lambda *args: steps.append(args))
    with pytest.raises(UserError, match="no permission to write there"):
        train(tmp_path, module, stream())
    assert not steps


def test_f04_no_permission_later(tmp_path, monkeypatch):
    saver(tmp_path)(1)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"last.ckpt: no checkpoint can be written: user \d+ has no permission"):
        saver(tmp_path)(2)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root can")
def test_f04_no_permission_for_real():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setuid(65534)
                probe(Path(folder), 1)
            except UserError as error:
                code = 0 if "user 65534 has no permission" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_f05_leftovers_of_killed_saves(tmp_path, caplog):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f"last.ckpt.tmp-{pid}").write_bytes(b"x" * 5000)
    with caplog.at_level(logging.INFO):
        remove_leftovers(tmp_path)
    assert "Removed 1 unfinished files (5.0 kB)" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [f"last.ckpt.tmp-{os.getpid()}"]


def test_f05_a_run_removes_them_at_its_start(tiny, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftovers = [tmp_path / "checkpoints" / f"step=1.ckpt.tmp-{dead.pid}", tmp_path / f".matrix.csv.tmp-{dead.pid}"]
    leftovers[0].parent.mkdir()
    for path in leftovers:
        path.write_bytes(b"x")
    train(tmp_path, model(tiny), stream(tasks=["a"], steps=1, eval_every=None))
    assert not any(path.exists() for path in leftovers)


@pytest.mark.parametrize("damage", ["f06_truncated", "f07_flipped_byte"])
def test_damage(tiny, tmp_path, caplog, damage):
    """The run goes on from the checkpoint before, and ends with the weights of one that had no damage."""
    module = model(tiny)
    train(tmp_path, module, stream())
    newest, before = in_order(tmp_path / "checkpoints")[:2]
    content = bytearray(newest.read_bytes())
    if damage == "f06_truncated":
        del content[-7:]
    else:
        content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = model(tiny)
    with pytest.warns(UserWarning, match="bytes instead of|SHA-256 is not"), caplog.at_level(logging.INFO):
        train(tmp_path, again, stream(), ckpt_path=newest)
    assert f"Going on from {before} instead." in caplog.text
    assert newest.with_name(newest.name + ".corrupt").exists()
    assert newest.exists()  # written again
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


class Payload:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_f08_a_payload_is_not_run(tiny, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "crafted.ckpt"
    torch.save({"state_dict": {}, "extra": Payload(marker)}, path)
    with pytest.raises(UserError, match="could run code"):
        train(tmp_path, model(tiny), stream(), ckpt_path=path)
    assert not marker.exists()
    assert path.exists()


@pytest.mark.parametrize(("schema", "age"), [(99, "newer"), (0, "older")])
def test_f10_schema(tmp_path, schema, age):
    path = tmp_path / "other.ckpt"
    SafeCheckpointIO().save_checkpoint({"lit_sdpo": {"schema": schema, "release": "7.8.9"}}, path)
    with pytest.raises(UserError, match=f"schema {schema}, {age} than") as raised:
        load(path)
    assert "use lit-sdpo 7.8.9" in str(raised.value).lower()
