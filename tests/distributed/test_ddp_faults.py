"""C11: two processes that share a run, and what happens when one of them is told to end, dies or hangs."""

from __future__ import annotations

import collections
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from lit_sdpo.checkpoints import SafeCheckpointIO
from tests.faults import programs
from tests.faults.programs import CONFIG, OPTIONS, Program

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
DDP = {"trainer.devices": 2, "trainer.accelerator": "cpu", "trainer.strategy": "ddp", "data.eval_prompts": 2}


@pytest.fixture(scope="module")
def launcher():
    with programs.launcher() as process:
        yield process


def pair(launcher, folder, **options):
    """Both processes, as ``torchrun`` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [Program(launcher, folder, environment, **(DDP | options)) for environment in ranks]


def test_c11_one_is_told_to_end_and_both_save_and_go_on(launcher, tmp_path):
    first, second = pair(launcher, tmp_path, **{"checkpoint.every_n_steps": 1})
    first.training()
    assert json.loads((first.folder / "run.lock").read_text())["pid"] == first.pid
    for refused in pair(launcher, tmp_path):
        assert refused.wait() == 2
        assert f"another run is using this folder (process {first.pid} on" in refused.output
    first.training()
    second.send(signal.SIGTERM)
    assert [first.wait(), second.wait()] == [143, 143], first.output
    assert "Another process of the run was told to end: the run saves and ends." in first.output
    checkpoint = SafeCheckpointIO().load_checkpoint(first.checkpoints()[0])
    assert len(checkpoint["lit_sdpo"]["random"]) == 2
    assert not (first.folder / "run.lock").exists()

    again = pair(launcher, tmp_path)
    again[0].training()
    for program in again:
        program.send(signal.SIGTERM)
    assert [program.wait() for program in again] == [143, 143], again[0].output
    newest, *_ = again[0].checkpoints()
    assert SafeCheckpointIO().load_checkpoint(newest)["global_step"] > checkpoint["global_step"]
    assert not list(first.folder.rglob("*.tmp-*"))
    lines = [json.loads(line) for line in (first.folder / "samples.jsonl").read_text().splitlines()]
    steps = collections.Counter(line["step"] for line in lines if line["split"] == "train")
    assert set(steps.values()) == {2}  # one prompt on each rank, of which the first writes
    assert sorted(steps) == list(range(len(steps)))


def test_c11_fewer_evaluated_prompts_than_processes_are_refused(launcher, tmp_path):
    for program in pair(launcher, tmp_path, **{"data.eval_prompts": 1}):
        assert program.wait() == 2
        assert "data.eval_prompts: 1 prompts to evaluate for 2 devices" in program.output


@pytest.mark.parametrize("dead", [0, 1])
def test_c11_one_dies_and_the_other_ends_with_a_message(launcher, tmp_path, dead):
    both = pair(launcher, tmp_path)
    both[0].training()
    both[dead].send(signal.SIGKILL)
    started, other = time.monotonic(), both[1 - dead]
    assert other.wait() == 1
    assert time.monotonic() - started < 60
    assert "lit-sdpo: error: another process of this run has ended or hangs" in other.output
    assert "Traceback" not in other.output


def test_c11_one_hangs_and_the_other_ends_at_the_time_limit(launcher, tmp_path):
    both = pair(launcher, tmp_path, **{"trainer.strategy": "DDPStrategy", "trainer.strategy.timeout": "0:00:08"})
    both[0].training()
    started = time.monotonic()
    both[1].send(signal.SIGSTOP)
    assert both[0].wait() == 1
    assert time.monotonic() - started < 60
    assert "another process of this run has ended or hangs" in both[0].output
    both[1].send(signal.SIGKILL)


def test_c10_c11_the_program_starts_its_own_second_process_and_needs_no_home(tmp_path):
    settings = OPTIONS | DDP | {"trainer.logger.init_args.save_dir": tmp_path, "data.steps": 2000}
    command = [sys.executable, "-m", "lit_sdpo", "fit", f"--config={CONFIG}"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    with (tmp_path / "log.txt").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": "/proc/nowhere"}
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            samples = tmp_path / "micro-sdpo" / "version_0" / "samples.jsonl"
            end = time.monotonic() + 200
            while not (samples.exists() and b'"split": "train"' in samples.read_bytes()):
                assert process.poll() is None, (tmp_path / "log.txt").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 143, (tmp_path / "log.txt").read_text()
    assert len(list(samples.parent.rglob("step=*.ckpt"))) == 1
    assert [path.name for path in samples.parent.parent.iterdir()] == ["version_0"]
