"""Shares of a training step: where the CPU seconds go.

A step of ``benchmarks.step`` runs with a clock around each part; a part inside another counts for itself only. The
head builds its gradient in the forward pass, so ``backward`` is that of the decoder. Without ``--model`` and ``--data``
it is the micro model on prompts of the micro world.

    python -m benchmarks.profile --method sdpo
    python -m benchmarks.profile --method grpo --model DIR --data FILE.jsonl --max-completion-length 256
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl

import lit_sdpo.callbacks.rollout.callback
import lit_sdpo.modules.base
import lit_sdpo.modules.objective
import lit_sdpo.rollouts.engines.native
import lit_sdpo.rollouts.generate
from benchmarks.common import report
from benchmarks.step import Session, arguments
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.data.micro.tasks import MicroTask
from lit_sdpo.policies.load import load_tokenizer
from lit_sdpo.policies.scoring import Scorer
from lit_sdpo.policies.teachers import Teacher
from lit_sdpo.rewards.combine import WeightedRewards

REST = "the rest: Trainer, loader, callbacks"


class Sections:
    """Process time by name, each section without those inside it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew; between sections only."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._names: list[str] = []
        self.started = self._last = time.process_time()

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._names[-1] if self._names else REST] += now - self._last
        self._last = now

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Count what passes inside under ``name``."""
        self._turn()
        self._names.append(name)
        try:
            yield
        finally:
            self._turn()
            self._names.pop()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted under ``name``."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.inside(name):
                return function(*args, **kwargs)

        return counted

    def stop(self) -> dict[str, float]:
        """The seconds so far."""
        self._turn()
        return dict(self.seconds)


class Window(pl.Callback):
    """Counts the steps after the warm-up only."""

    def __init__(self, sections: Sections, warmup: int, steps: int) -> None:
        self.sections, self.warmup, self.steps = sections, warmup, steps
        self.seconds: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Clear after the warm-up, stop after the last step."""
        if trainer.global_step == self.warmup and batch.slot == batch.slots - 1:
            self.sections.clear()
        elif trainer.global_step == self.steps and batch.slot == batch.slots - 1:
            self.seconds = self.sections.stop()


def watched(sections: Sections, session: Session) -> ExitStack:
    """Put a clock around each part until the stack is closed."""
    module = type(session.module)
    parts: list[tuple[Any, str, str]] = [
        (lit_sdpo.callbacks.rollout.callback, "generate", "rollout: the rest"),
        (lit_sdpo.rollouts.engines.native, "sample", "rollout: sampling"),
        (lit_sdpo.rollouts.generate, "verify_all", "reward"),
        (WeightedRewards, "__call__", "reward"),
        (module, "prepare_rollouts", "advantages, reprompts"),
        (lit_sdpo.modules.objective, "completion_hidden", "student forward"),
        (lit_sdpo.modules.base, "weighted_loss", "head and loss"),
        (module, "training_step", "training step, the rest"),
        (session.trainer.strategy, "backward", "backward"),
        (module, "optimizer_step", "optimizer, clipping"),
        (module, "after_optimizer_step", "teacher: update"),
    ]
    stack = ExitStack()
    for owner, attribute, name in parts:
        # A function in the class, not a bound method, so that `self` still comes first.
        stack.enter_context(patch.object(owner, attribute, sections.around(name, getattr(owner, attribute))))
    run = lit_sdpo.rollouts.engines.native._DecodingLoop.run

    def run_watched(drawing: Any, decoder: Any) -> Any:
        for attribute, name in (("start", "prefill"), ("step", "decode"), ("compact", "compaction")):
            setattr(decoder, attribute, sections.around(f"rollout: {name}", getattr(decoder, attribute)))
        return run(drawing, decoder)

    stack.enter_context(patch.object(lit_sdpo.rollouts.engines.native._DecodingLoop, "run", run_watched))
    forward = Teacher.scorer

    def scorer(*args: Any) -> Scorer:
        with sections.inside("teacher: forward"):
            return sections.around("teacher: head", forward(*args))

    stack.enter_context(patch.object(Teacher, "scorer", scorer))
    return stack


def profile(options: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU seconds and share of each part, per step."""
    sections = Sections()
    window = Window(sections, options.warmup, options.steps)
    session = Session(options, [window])
    with watched(sections, session):
        session.fit()
    steps, total = options.steps - options.warmup, sum(window.seconds.values())
    return [
        {"part": name, "CPU s per step": seconds / steps, "share": round(seconds / total, 3)}
        for name, seconds in sorted(window.seconds.items(), key=lambda item: -item[1])
    ]


def write_micro_prompts(folder: str, count: int = 64) -> Path:
    """Prompts of the micro world's first task, as its chat template renders them."""
    tokenizer, path = load_tokenizer("micro"), Path(folder) / "prompts.jsonl"
    rows = MicroTask("math").rows("train")
    lines = []
    for row in (rows[n] for n in range(count)):
        messages = [dict(message) for message in row.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        lines.append(json.dumps({"prompt": text, "answer": row.ground_truth}) + "\n")
    path.write_text("".join(lines))
    return path


def main() -> None:
    options = arguments(__doc__)
    options.set_defaults(steps=4, reward="coin:0.3", model="micro", data="")
    options.add_argument("--tiny", action="store_true", help="the smallest sizes, to see that it runs")
    given = options.parse_args()
    if given.tiny:
        given.steps, given.prompts_per_step, given.num_generations, given.max_completion_length = 2, 2, 2, 4
    with tempfile.TemporaryDirectory() as folder:
        given.data = given.data or str(write_micro_prompts(folder))
        rows = profile(given)
    total = sum(row["CPU s per step"] for row in rows)
    report("profile", rows, method=given.method, model=given.model, threads=given.threads, seconds_per_step=total)


if __name__ == "__main__":
    main()
