"""Real runs of the program in processes of their own, forked from one that has the imports behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        os.environ.update(request["environment"])
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


class Program:
    """One run of the program in a process of its own."""

    def __init__(self, launcher, folder, environment=None, config=None, **options):
        folder.mkdir(exist_ok=True)
        self.launcher, self.runs, self.log = launcher, folder / "runs", folder / f"log_{time.monotonic_ns()}.txt"
        settings = {"trainer.logger.init_args.save_dir": self.runs, **options}
        if config is None:
            settings = OPTIONS | {"data.steps": 2000} | settings
        arguments = ["fit", f"--config={config or CONFIG}", *(f"--{name}={value}" for name, value in settings.items())]
        self.pid = self._ask({"arguments": arguments, "log": str(self.log), "environment": environment or {}})

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


@contextmanager
def launcher() -> Iterator[subprocess.Popen]:
    """What forks the programs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.stdin.close()
