"""Whole training steps of GRPO or SDPO through Lightning's Trainer: rollouts, rewards, teacher, update.

Prints one JSON line. Float32, AdamW without weight decay at a constant learning rate, gradients clipped at norm 1,
temperature 1, no KL penalty, one update per rollout. SDPO compares on the top 100 tokens and their tail with an EMA
teacher. CPU seconds are process time, which on one thread is the wall time of an idle machine; medians leave the first
``--warmup`` steps out. Prompts are given to the model as they stand in the file, without a chat template.

``--reward coin:P`` succeeds with chance P by a hash of the completion, so that an untrained model gets demonstrations.

    python -m benchmarks.step --model DIR --data FILE.jsonl --method sdpo --reward coin:0.3
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from benchmarks.common import Clock, peak_rss_mb, use_threads
from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.task import Row, Split, Stage, Task
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.grpo import GRPO
from lit_sdpo.modules.sdpo import SDPO
from lit_sdpo.policies.teachers import EMATeacher
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.types import Completions, Sampling

#: A chat template that gives the prompt as it is.
PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

#: The usual words; completions of models without an end token, all of them cut off, may be demonstrations.
REPROMPT = Reprompt(
    template="{prompt}{solution}{feedback}\n\nCorrectly solve the original question.\n",
    solution_template="\nCorrect solution:\n\n{solution}\n\n",
    allow_truncated=True,
)


class Lines(Task):
    """Prompts and answers of a JSONL file, and a clock on their verification."""

    def __init__(self, path: str, reward: str) -> None:
        super().__init__("lines")
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
        self._rows = [
            Row(str(n), [{"role": "user", "content": line["prompt"]}], str(line["answer"]))
            for n, line in enumerate(lines)
        ]
        self.chance = None if reward == "exact" else float(reward.removeprefix("coin:"))
        self.clock = Clock()
        self.scores: list[float] = []

    def rows(self, split: Split) -> Sequence[Row]:
        """All rows are trained on."""
        return self._rows if split == "train" else []

    def verify(self, completion: str, row: Row) -> Verdict:
        """Exact match, or a coin."""
        with self.clock.running():
            if self.chance is None:
                good = completion.strip() == row.ground_truth.strip()
            else:
                digest = hashlib.sha1(completion.encode()).hexdigest()
                good = int(digest[:8], 16) / 2**32 < self.chance
        self.scores.append(float(good))
        return Verdict(float(good))


class TimedEngine(NativeEngine):
    """The native engine with a clock and a count of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.tokens = Clock(), 0

    def generate(self, *args: Any, **kwargs: Any) -> Completions:
        """Generate and take the time."""
        with self.clock.running():
            made = super().generate(*args, **kwargs)
        self.tokens += int(made.lengths.sum())
        return made


class Steps(pl.Callback):
    """Time of each optimizer step and of its parts."""

    def __init__(self, engine: TimedEngine, task: Lines) -> None:
        self.engine, self.task = engine, task
        self.steps: list[dict[str, float]] = []

    def _mark(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter(),
            "cpu": time.process_time(),
            "generation": self.engine.clock.seconds,
            "generation_cpu": self.engine.clock.cpu_seconds,
            "reward": self.task.clock.seconds,
            "tokens": self.engine.tokens,
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        gc.collect()
        self._last = self._mark()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Close the step with its last slot."""
        if batch.slot == batch.slots - 1:
            now = self._mark()
            self.steps.append({name: now[name] - self._last[name] for name in now})
            self._last = now

    def median(self, warmup: int, value: Callable[[dict[str, float]], float]) -> float:
        """Median of a value over the steps after warm-up."""
        return statistics.median(value(step) for step in self.steps[warmup:] or self.steps)


def arguments(text: str | None = __doc__) -> argparse.ArgumentParser:
    """Options of a training step, for other benchmarks too."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=text is __doc__, help="model folder")
    parser.add_argument("--data", required=text is __doc__, help="JSONL with prompt and answer")
    parser.add_argument("--method", choices=["grpo", "sdpo"], default="grpo")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=1, help="steps left out of the medians")
    parser.add_argument("--prompts-per-step", type=int, default=8)
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--max-completion-length", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=0, help="rows at once; 0: the whole step")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--reward", default="exact", help="exact, or coin:P")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def module_of(method: str, model: str, lr: float) -> OnPolicyModule:
    """GRPO or SDPO with the settings above."""
    adam: Any = partial(torch.optim.AdamW, lr=lr, weight_decay=0.0)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return adam([p for _, p in parameters])

    shared: dict[str, Any] = {"optimizer": optimizer, "scheduler": None, "attn_implementation": "sdpa"}
    if method == "grpo":
        module: OnPolicyModule = GRPO(model, advantage="std", clip_eps_high=0.2, **shared)
    else:
        module = SDPO(model, teacher=EMATeacher(0.05), reprompt=REPROMPT, **shared)
    module.tokenizer.chat_template = PLAIN
    return module


class Session:
    """A trainer and all that it needs, ready to run.

    Args:
        options: Of :func:`arguments`.
        callbacks: Further ones.
    """

    def __init__(self, options: argparse.Namespace, callbacks: Sequence[pl.Callback] = ()) -> None:
        use_threads(options.threads)
        warnings.filterwarnings("ignore")
        pl.seed_everything(options.seed, verbose=False)
        self.options = options
        self.rows = options.prompts_per_step * options.num_generations
        self.micro = options.micro_batch or self.rows
        if self.rows % self.micro:
            raise SystemExit(f"--micro-batch {self.micro} does not divide {self.rows} rows")
        self.task, self.engine = Lines(options.data, options.reward), TimedEngine()
        stage = Stage(task=self.task, steps=options.steps, prompts_per_step=options.prompts_per_step)
        self.data = ContinualDataModule([stage], evaluate_trained=False, seed=options.seed)
        self.module = module_of(options.method, options.model, options.lr)
        rollout = RolloutCallback(
            num_generations=options.num_generations,
            sampling=Sampling(max_new_tokens=options.max_completion_length),
            engine=self.engine,
            seed=options.seed,
        )
        self.steps = Steps(self.engine, self.task)
        self.trainer = pl.Trainer(
            **self.data.trainer_arguments(),
            accelerator="cpu",
            devices=1,
            accumulate_grad_batches=self.rows // self.micro,
            gradient_clip_val=1.0,
            callbacks=[rollout, self.steps, *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.module.configure_model()

    def fit(self) -> None:
        """Train."""
        self.trainer.fit(self.module, self.data)


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train and say what it took."""
    session = Session(options)
    module, task, rows = session.module, session.task, session.rows
    before, started = peak_rss_mb(), time.perf_counter()
    session.fit()
    total, peak = time.perf_counter() - started, peak_rss_mb()
    median = partial(session.steps.median, options.warmup)
    return {
        "trainer": f"lit_sdpo {type(module).__name__}",
        "method": options.method,
        "model": Path(options.model).resolve().name,
        "parameters": sum(p.numel() for p in module.policy.parameters()),
        "completions_per_step": rows,
        "micro_batch": session.micro,
        "max_completion_length": options.max_completion_length,
        "threads": options.threads,
        "steps": len(session.steps.steps),
        "seconds_per_step": round(median(lambda s: s["seconds"]), 4),
        "cpu_seconds_per_step": round(median(lambda s: s["cpu"]), 4),
        "generation_cpu_seconds": round(median(lambda s: s["generation_cpu"]), 4),
        "update_cpu_seconds": round(median(lambda s: s["cpu"] - s["generation_cpu"]), 4),
        "generation_seconds": round(median(lambda s: s["generation"]), 4),
        "update_seconds": round(median(lambda s: s["seconds"] - s["generation"] - s["reward"]), 4),
        "generated_tokens_per_second": round(median(lambda s: s["tokens"] / s["generation"]), 1),
        "tokens_per_step": median(lambda s: s["tokens"]),
        "peak_rss_mb": round(peak),
        "rss_before_training_mb": round(before),
        "total_seconds": round(total, 2),
        "mean_reward_by_step": [
            round(statistics.mean(task.scores[n : n + rows]), 4) for n in range(0, len(task.scores), rows)
        ],
        "seed": options.seed,
        "reward": options.reward,
        "variant": "token_mean" if options.method == "grpo" else "top-100 and tail/ema",
    }


def main() -> None:
    print(json.dumps(train(arguments().parse_args())))


if __name__ == "__main__":
    main()
