"""Two processes against one: seconds per step of the micro configuration, the prompts of a step shared out by DDP.

GRPO on the micro world's first task with the settings of ``configs/micro`` and gloo. Each process computes on its own
threads, so the wall time counts; on a machine that is busy otherwise it says little. The processes alternate.

    python -m benchmarks.ddp
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from typing import Any

import lightning.pytorch as pl

from benchmarks.common import in_fresh_process, parser, report, use_threads
from benchmarks.step import module_of
from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.data.micro.datamodule import MicroDataModule
from lit_sdpo.rollouts.types import Sampling


class Times(pl.Callback):
    """Prints seconds per step, of the first process, as one JSON line at the end."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.rewards: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Close a step."""
        if batch.slot == batch.slots - 1:
            self.marks.append((time.perf_counter(), time.process_time()))
            self.rewards.append(float(trainer.callback_metrics["rollout/reward"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell."""
        if trainer.global_rank == 0:
            pairs = list(zip(self.marks[1:], self.marks[2:], strict=False))  # the first step is a warm-up
            wall, cpu = (statistics.median(b[n] - a[n] for a, b in pairs) for n in (0, 1))
            print(json.dumps({"wall": wall, "cpu": cpu, "reward": self.rewards[0]}), flush=True)


def work(devices: int, threads: int, steps: int, tokens: int) -> None:
    """Train on so many processes."""
    warnings.filterwarnings("ignore")
    use_threads(threads)
    pl.seed_everything(0, verbose=False)
    data = MicroDataModule(
        order=["math"], steps=steps, prompts_per_step=6, evaluate_trained=False, ood=False, prior=False
    )
    trainer = pl.Trainer(
        **data.trainer_arguments(),
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        callbacks=[RolloutCallback(num_generations=8, sampling=Sampling(max_new_tokens=tokens), seed=0), Times()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module_of("grpo", "micro", 3e-4), data)


def main() -> None:
    options = parser(__doc__, repeats=2)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--devices", type=int, default=0, help="train on so many processes and say how long it took")
    given = options.parse_args()
    if given.tiny:
        given.steps, given.tokens, given.repeats = 3, 4, 1
    if given.devices:
        work(given.devices, given.threads, given.steps, given.tokens)
        return
    shared = ["--steps", str(given.steps), "--tokens", str(given.tokens), "--threads", str(given.threads)]
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(given.repeats):
        for devices, runs in found.items():
            runs.append(in_fresh_process("benchmarks.ddp", "--devices", str(devices), *shared, threads=given.threads))
    alone = min(run["wall"] for run in found[1])
    rows = []
    for devices, runs in found.items():
        wall = min(run["wall"] for run in runs)
        rows.append(
            {
                "processes": devices,
                "wall s per step": wall,
                "CPU s of the first": min(run["cpu"] for run in runs),
                "speed-up": round(alone / wall, 2),
                "reward of the first step": round(runs[0]["reward"], 6),
            }
        )
    report("ddp", rows, steps=given.steps, threads_per_process=given.threads)


if __name__ == "__main__":
    main()
