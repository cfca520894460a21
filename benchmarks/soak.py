"""Does a run that is killed again and again end as an undisturbed one? ``python -m benchmarks.soak --kills 30``.

A short run in the micro world saves after every step. It is killed with SIGKILL at random moments and started again
with ``ckpt_path: last``; when it has ended before all kills are done, another one begins. Every one has to end with the
weights, optimizer, random state, matrix and samples of the undisturbed run, bit for bit. The last line says
``identical after N kills``, or what differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lit_sdpo import cli
from lit_sdpo.checkpoints.last import latest_version
from lit_sdpo.checkpoints.manifest import in_order

CONFIG = Path(__file__).parents[1] / "configs" / "micro" / "sdpo_ema.yaml"
FILES = ("samples.jsonl", "matrix.json", "matrix.csv", "matrix.md", "tasks.csv", "changes.csv", "items.jsonl")
#: Entries of a checkpoint that tell of the folder or the clock.
NOT_COMPARED = ("path", "dirpath", "seconds")
OPTIONS = {
    "data.order": "[math, tool]",
    "data.steps": 4,
    "data.prompts_per_step": 2,
    "data.eval_prompts": 2,
    "data.eval_generations": 2,
    "data.eval_every": 2,
    "data.ood": "false",
    "data.prior": "false",
    "rollout.num_generations": 4,
    "rollout.sampling.max_new_tokens": 12,
    "samples.every_n_steps": 1,
    "checkpoint.every_n_steps": 1,
    "trainer.accumulate_grad_batches": 2,
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "trainer.logger.init_args.name": "run",
    "ckpt_path": "last",
}


def attempt(folder: Path, seconds: float | None = None) -> tuple[int | None, float]:
    """Train in a child process that may be killed; its exit code (``None``: killed) and how long it took."""
    child = os.fork()  # a fresh interpreter would spend most of the time on imports
    if child == 0:
        log = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        code = cli.main(["fit", f"--config={CONFIG}", f"--trainer.logger.init_args.save_dir={folder}", *options])
        sys.stdout.flush()
        os._exit(code)
    start = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        passed = time.monotonic() - start
        if done:
            return os.waitstatus_to_exitcode(status), passed
        if seconds is not None and passed >= seconds:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return (None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)), passed
        time.sleep(0.01)


def outcome(folder: Path) -> dict[str, Any]:
    """What a run left behind: its last checkpoint and its files."""
    runs = folder / "run"
    last = runs / f"version_{latest_version(runs)}"
    checkpoint = torch.load(in_order(last / "checkpoints")[0], weights_only=True)
    files = {name: (last / name).read_bytes() for name in FILES if (last / name).exists()}
    return {"checkpoint": checkpoint, "files": files}


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Names of nested entries that are not the same bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        names = [name for name in {**a, **b} if name not in NOT_COMPARED]
        return [line for name in names for line in differences(a.get(name), b.get(name), f"{where}/{name}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [line for n in range(len(a)) for line in differences(a[n], b[n], f"{where}/{n}")]
    return [] if a == b or (a != a and b != b) else [where]


def compare(undisturbed: Path, folder: Path, kills: int) -> bool:
    """Whether both ended alike; looked at in a child, as torch's threads here would not survive forks."""
    child = os.fork()
    if child == 0:
        found = differences(outcome(undisturbed), outcome(folder))
        if found:
            print(f"differs after {kills} kills: {', '.join(found[:20])}", flush=True)
        os._exit(1 if found else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> int:
    """Returns 0 if everything is the same, 1 otherwise."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=30)
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        return soak(Path(name), arguments.kills, moments)


def soak(base: Path, kills: int, moments: random.Random) -> int:
    """Kill, resume, compare."""
    (base / "undisturbed").mkdir()
    code, duration = attempt(base / "undisturbed")
    if code:
        print((base / "undisturbed" / "output.txt").read_text())
        print(f"the undisturbed run failed with {code}")
        return 1
    written = [name for name in FILES if (base / "undisturbed" / "run" / "version_0" / name).exists()]
    print(f"undisturbed: {duration:.1f} s, {len(written)} files", flush=True)
    done = runs = 0
    while done < kills or not runs:
        runs += 1
        folder = base / f"run_{runs}"
        folder.mkdir()
        while True:
            limit = moments.uniform(0, 0.7 * duration) if done < kills else None
            code, passed = attempt(folder, limit)
            if code == 0:
                break
            if code is not None:
                print((folder / "output.txt").read_text()[-4000:])
                print(f"a resumed run failed with {code} after {done} kills")
                return 1
            done += 1
            saved = sorted(path.stem for path in folder.glob("run/version_*/checkpoints/*.ckpt"))
            print(
                f"kill {done} after {passed:.2f} s of run {runs}; checkpoints: {', '.join(saved) or 'none'}", flush=True
            )
        if not compare(base / "undisturbed", folder, done):
            return 1
    print(f"identical after {done} kills")
    return 0


if __name__ == "__main__":
    sys.exit(main())
