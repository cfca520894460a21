"""Does a run that is killed again and again end as an undisturbed one? ``python -m benchmarks.soak --kills 30``.

A short run in the micro world saves after every step. It is killed with SIGKILL and started again with ``ckpt_path:
last``; when it has ended before all kills are done, another one begins. Every one has to end with the weights,
optimizer, random state, matrix, samples and all other files of the undisturbed run, bit for bit. The last line says
``identical after N kills``, or what differs.

Kills fall at random moments, or with ``--late`` at random moments after one to three further checkpoints. ``--variants
all`` does it for every teacher, for what changes the steps, and for every monitor, each with as many late kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lit_sdpo import cli
from lit_sdpo.checkpoints.last import latest_version
from lit_sdpo.checkpoints.manifest import Manifest, in_order
from lit_sdpo.report.events import scalars

CONFIG = Path(__file__).parents[1] / "configs" / "micro" / "sdpo_ema.yaml"
#: Files that are about the processes, not about the run.
APART = ("config*", "environment*", "run.lock", "hparams.yaml", "events.*", "*.partial")
#: Entries of a checkpoint that tell of the folder or the clock.
NOT_COMPARED = ("path", "base", "token", "dirpath", "seconds", "curves", "save_dir")
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


TEACHERS: dict[str, dict[str, Any]] = {
    "FrozenTeacher": {},
    "EMATeacher": {"update_rate": 0.2, "clock": "rollout"},
    "RestartTeacher": {"every": 3, "mix": 0.4},
    "GatedTeacher": {"check_every": 1, "min_age": 1, "reward_gain": 0.0, "window": 2, "max_length_tail": 99.0},
    "TrustRegionTeacher": {},
}
MONITORS = ("ParameterDrift", "ResponseDrift", "ArtifactMonitor", "CollapseMonitor")
#: What is changed of :data:`OPTIONS`, by the name of the variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{
        name: {"model.teacher": json.dumps({"class_path": name, "init_args": options})}
        for name, options in TEACHERS.items()
    },
    "replay": {"data.replay_share": 0.5, "model.replay_coefficient": 0.1},
    "dynamic sampling": {"rollout.resample_rounds": 2},
    "two updates": {"data.updates_per_rollout": 2, "data.eval_every": "null"},
    "LoRA": {"model.lora": "{rank: 4, alpha: 8}"},
    "Muon": {"model.optimizer": "MuonAdamW"},
    "weight anchor": {"model.weight_anchor": "{class_path: WeightAnchor, init_args: {strength: 1.0}}"},
    "gradient checkpointing": {"model.gradient_checkpointing": "true"},
    "one optimizer state": {"model.reset_optimizer": "false"},
    "monitors": {"trainer.callbacks": json.dumps([{"class_path": name} for name in MONITORS])},
    "two processes": {"trainer.devices": 2, "trainer.strategy": "ddp"},
}


class Moment:
    """When a run is killed: after some seconds, or after some more checkpoints and a little time."""

    def __init__(self, random: random.Random, duration: float, *, late: bool) -> None:
        self.limit = random.uniform(0, 0.7 * duration)
        self.saves = random.randint(1, 3) if late else None
        self.delay = random.uniform(0, 0.1 * duration)
        self._came: float | None = None

    def has_come(self, passed: float, saved: int) -> bool:
        """Whether it is now.

        Args:
            passed: Seconds since the start.
            saved: Checkpoints since the start.
        """
        if self.saves is None:
            return passed >= self.limit
        if saved >= self.saves and self._came is None:
            self._came = passed + self.delay
        return self._came is not None and passed >= self._came


def attempt(
    folder: Path, options: dict[str, Any] | None = None, moment: Moment | None = None
) -> tuple[int | None, float]:
    """Train in a child process that may be killed; its exit code (``None``: killed) and how long it took."""
    given = {**OPTIONS, **(options or {}), "trainer.logger.init_args.save_dir": folder}
    before, ranks = saves(folder), range(int(given.get("trainer.devices", 1)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child, *others = [start(folder, given, rank, len(ranks), port) for rank in ranks]
    started = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        passed = time.monotonic() - started
        if not done and moment is not None and moment.has_come(passed, saves(folder) - before):
            for pid in (child, *others):
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(child, 0)
        if done:
            for pid in others:
                os.waitpid(pid, 0)
            return (None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)), passed
        time.sleep(0.01)


def start(folder: Path, given: dict[str, Any], rank: int, ranks: int, port: int) -> int:
    """A child process that trains, one of so many; a fresh interpreter would spend most of the time on imports."""
    child = os.fork()
    if child:
        return child
    log = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if ranks > 1:  # as torchrun would start it
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "soak"}
        os.environ.update({name: str(value) for name, value in group.items()})
    code = cli.main(["fit", f"--config={CONFIG}", *(f"--{name}={value}" for name, value in given.items())])
    sys.stdout.flush()
    os._exit(code)


def saves(folder: Path) -> int:
    """How many checkpoints a run has written."""
    numbers = (Manifest.of(path.with_suffix("")) for path in folder.glob("run/version_*/checkpoints/*.ckpt.json"))
    return max((manifest.number for manifest in numbers if manifest), default=0)


def outcome(folder: Path) -> dict[str, Any]:
    """What a run left behind: its last checkpoint, its files, and the weights that monitors have kept."""
    last = latest(folder)
    checkpoint = torch.load(in_order(last / "checkpoints")[0], weights_only=True)
    files: dict[str, Any] = {path.name: path.read_bytes() for path in written(last) if path.suffix != ".pt"}
    weights = {path.name: torch.load(path, weights_only=True) for path in last.glob("*_base.pt")}
    return {"checkpoint": checkpoint, "files": files, "base": dict(weights), "curves": curves(last)}


def latest(folder: Path) -> Path:
    """The run folder."""
    return folder / "run" / f"version_{latest_version(folder / 'run')}"


def written(run: Path) -> list[Path]:
    """The files of a run that have to be the same."""
    return [path for path in sorted(run.iterdir()) if path.is_file() and not any(map(path.match, APART))]


def curves(run: Path) -> dict[str, Any]:
    """What was logged, but for times."""
    return {tag: points for tag, points in scalars(run).items() if "time" not in tag and "per_second" not in tag}


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
    options.add_argument("--kills", type=int, default=30, help="of each variant")
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--late", action="store_true", help="kill only after further checkpoints")
    options.add_argument("--variants", default="", help=f"all, or some of: {', '.join(VARIANTS)}")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    names = list(VARIANTS) if arguments.variants == "all" else [x.strip() for x in arguments.variants.split(",") if x]
    if unknown := [name for name in names if name not in VARIANTS]:
        options.error(f"no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    failed = 0
    for name in names or ["plain"]:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            moments = random.Random(f"{arguments.seed} {name}" if names else arguments.seed)
            late = arguments.late or bool(names)
            failed += soak(Path(folder), VARIANTS[name], arguments.kills, moments, late=late)
    if len(names) > 1:
        print(f"{len(names) - failed} of {len(names)} variants identical")
    return int(failed > 0)


def soak(base: Path, options: dict[str, Any], kills: int, moments: random.Random, *, late: bool) -> int:
    """Kill, resume, compare."""
    (base / "undisturbed").mkdir()
    code, duration = attempt(base / "undisturbed", options)
    if code:
        print((base / "undisturbed" / "output.txt").read_text())
        print(f"the undisturbed run failed with {code}")
        return 1
    print(f"undisturbed: {duration:.1f} s, {len(written(latest(base / 'undisturbed')))} files", flush=True)
    done = runs = 0
    while done < kills or not runs:
        runs += 1
        folder = base / f"run_{runs}"
        folder.mkdir()
        while True:
            moment = Moment(moments, duration, late=late) if done < kills else None
            code, passed = attempt(folder, options, moment)
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
    print(f"identical after {done} kills", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
