"""F15, F16, F19 and ``ckpt_path: last``: real runs of the program, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.checkpoints.manifest import in_order

CONFIG = Path(__file__).parents[2] / "configs" / "micro" / "sdpo.yaml"
OPTIONS = {
    "data.order": "[math]",
    "data.prompts_per_step": 2,
    "data.eval_prompts": 1,
    "data.eval_generations": 1,
    "data.ood": "false",
    "data.prior": "false",
    "rollout.num_generations": 2,
    "rollout.sampling.max_new_tokens": 8,
    "samples.every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "ckpt_path": "last",
}
LAUNCHER = """
import json, os, sys
from lit_sdpo import cli
import torch
torch.set_num_threads(1)
running = set()
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        running.discard(request["wait"])
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()  # a process of its own, without the seconds that imports take
    if child == 0:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = cli.main(request["arguments"])
        sys.stdout.flush()
        os._exit(code)
    running.add(child)
    print(child, flush=True)
for child in running:  # of tests that failed
    os.kill(child, 9)
"""
pytestmark = pytest.mark.slow


class Program:
    """One run of the program in a process of its own."""

    def __init__(self, launcher, folder, **options):
        self.launcher, self.runs, self.log = launcher, folder / "runs", folder / f"log_{time.monotonic_ns()}.txt"
        settings = {**OPTIONS, "trainer.logger.init_args.save_dir": self.runs, "data.steps": 2000, **options}
        arguments = ["fit", f"--config={CONFIG}", *(f"--{name}={value}" for name, value in settings.items())]
        self.pid = self._ask({"arguments": arguments, "log": str(self.log)})

    def _ask(self, request):
        self.launcher.stdin.write(json.dumps(request) + "\n")
        self.launcher.stdin.flush()
        return int(self.launcher.stdout.readline())

    @property
    def folder(self):
        return self.runs / "micro-sdpo" / "version_0"

    @property
    def output(self):
        return self.log.read_text()

    def steps(self):
        samples = self.folder / "samples.jsonl"
        return samples.read_bytes().count(b'"split": "train"') if samples.exists() else 0

    def until(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.output
            time.sleep(0.02)
        return self

    def training(self):
        before = self.steps()
        return self.until(lambda: self.steps() > before + 4)

    def send(self, number):
        os.kill(self.pid, number)
        return self

    def wait(self):
        return self._ask({"wait": self.pid})

    def checkpoints(self):
        return in_order(self.folder / "checkpoints")


@pytest.fixture(scope="module")
def launcher():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.stdin.close()


def test_f15_once_saves_and_leaves_and_last_goes_on(launcher, tmp_path):
    program = Program(launcher, tmp_path).training().send(signal.SIGTERM)
    assert program.wait() == 143, program.output
    assert "SIGTERM: the run saves and ends after this step" in program.output
    assert "Traceback" not in program.output
    (saved,) = program.checkpoints()
    step = SafeCheckpointIO().load_checkpoint(saved)["global_step"]
    assert saved.name == f"step={step}.ckpt"
    assert not (program.folder / "run.lock").exists()

    again = Program(launcher, tmp_path).training().send(signal.SIGINT)
    assert again.wait() == 130, again.output
    newest, *_ = again.checkpoints()
    assert SafeCheckpointIO().load_checkpoint(newest)["global_step"] > step
    assert (program.folder / "config_2.yaml").exists()
    assert [path.name for path in program.folder.parent.iterdir()] == ["version_0"]
    lines = [json.loads(line) for line in (program.folder / "samples.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == [step for step in range(max(steps) + 1) for _ in range(4)]  # prompts · completions


def test_f15_before_the_first_step_it_leaves_with_whole_files(launcher, tmp_path):
    options = {"data.eval_prompts": 8, "data.eval_batch_size": 1}
    program = Program(launcher, tmp_path, **options)
    samples = program.folder / "samples.jsonl"
    program.until(lambda: samples.exists() and samples.stat().st_size).send(signal.SIGTERM)
    assert program.wait() == 143, program.output
    assert [path.name for path in program.checkpoints()] in ([], ["step=1.ckpt"])  # the first step may have begun
    assert not list(program.folder.rglob("*.tmp-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_f15_twice_leaves_now_with_intact_files(launcher, tmp_path, number, code):
    program = Program(launcher, tmp_path, **{"checkpoint.every_n_steps": 1}).training()
    program.send(number)
    program.until(lambda: f"{number.name}: the run saves" in program.output).send(number)
    assert program.wait() == code, program.output
    for path in program.checkpoints():
        SafeCheckpointIO().load_checkpoint(path)
    assert not list(program.folder.rglob("*.tmp-*"))
    assert not list(program.folder.rglob("*.corrupt"))


def test_f16_notice_saves_and_goes_on(launcher, tmp_path):
    program = Program(launcher, tmp_path).training().send(signal.SIGUSR1)
    program.until(lambda: len(program.checkpoints()) == 1).training().send(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    SafeCheckpointIO().load_checkpoint(program.checkpoints()[0])


def test_f19_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(launcher, tmp_path):
    first = Program(launcher, tmp_path, **{"checkpoint.every_n_steps": 1}).training()
    first.until(first.checkpoints)
    second = Program(launcher, tmp_path)
    assert second.wait() == 2
    assert f"another run is using this folder (process {first.pid} on" in second.output
    assert "Traceback" not in second.output
    first.training().send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    third = Program(launcher, tmp_path).training().send(signal.SIGTERM)
    assert third.wait() == 143, third.output
    assert f"Process {first.pid} on" in third.output


def test_f14_a_finished_run_exits_with_0(launcher, tmp_path):
    for _ in range(2):
        program = Program(launcher, tmp_path, **{"data.steps": 1})
        assert program.wait() == 0, program.output
    assert "Nothing left to train: all 1 stages were complete at step 1." in program.output


def test_f11_another_model_size_is_a_mistake_without_traceback(launcher, tmp_path):
    assert Program(launcher, tmp_path, **{"data.steps": 1}).wait() == 0
    other = {"model.random_weights": "true", "model.config_overrides": "{hidden_size: 32}"}
    program = Program(launcher, tmp_path, **{"data.steps": 1}, **other)
    assert program.wait() == 2, program.output
    assert "Traceback" not in program.output
    assert "entries differ" in program.output
    assert ": checkpoint has [96, 96], this model has [32, 96]" in program.output
