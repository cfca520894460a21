"""What a training step takes with each remedy against forgetting, and with its early sign, against the step without.

SDPO on the micro model, two stages of ``--steps`` steps with 6 prompts of 8 completions, without evaluation. The steps
of the second stage count but for its first: every remedy has something to hold by then. The learning rate is 0, so that
all sides draw the same completions and only the work differs. Process time, least of ``--repeats`` rounds in which the
sides take turns, of the median step; what the end of the first stage takes beside its sampling stands next to it.

    OMP_NUM_THREADS=1 python -m benchmarks.remedies
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from benchmarks.common import parser, report, use_threads
from benchmarks.step import TimedEngine
from lit_sdpo.callbacks import AveragedPolicy, GradientAlignment, RolloutCallback, StageMerge
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.data.micro.datamodule import MicroDataModule
from lit_sdpo.modules import SDPO, OnlineEWC, Tilt, WeightAnchor
from lit_sdpo.policies.train_only import TrainOnly
from lit_sdpo.rollouts.types import Sampling

#: Callbacks, options of the module and of the data, each made anew for a run.
Remedy = Callable[[], tuple[list[pl.Callback], dict[str, Any], dict[str, Any]]]
NONE = "none"
REMEDIES: Mapping[str, Remedy] = {
    NONE: lambda: ([], {}, {}),
    "StageMerge": lambda: ([StageMerge(strength=0.3, rise=0.7)], {}, {}),
    "AveragedPolicy, EMA": lambda: ([AveragedPolicy(ema_rate=0.05)], {}, {}),
    "AveragedPolicy, BEMA": lambda: ([AveragedPolicy()], {}, {}),
    "train_only": lambda: ([], {"train_only": TrainOnly(["self_attn"])}, {}),
    "OnlineEWC": lambda: ([], {"weight_anchor": OnlineEWC()}, {}),
    "WeightAnchor": lambda: ([], {"weight_anchor": WeightAnchor()}, {}),
    "prompt anchor": lambda: ([], {"prompt_anchor_coefficient": 1.0}, {"replay_share": 0.1}),
    "continual MOPD": lambda: ([], {"continual_mopd_coefficient": 1.0}, {"replay_share": 0.1}),
    "tilt": lambda: ([], {"tilt": Tilt(beta=4.0, steps=40)}, {}),
    "tilt, epsilon": lambda: ([], {"tilt": Tilt(epsilon=0.1)}, {}),
    "GradientAlignment, each step": lambda: ([GradientAlignment(every_n_steps=1)], {}, {}),
}
#: What adds a forward pass, so that the bar does not hold for it.
PASSES = ("prompt anchor", "continual MOPD", "tilt", "tilt, epsilon", "GradientAlignment, each step")
BAR = 1.1


class Steps(pl.Callback):
    """CPU seconds of each step of the second stage, those of sampling apart; of its first one with the stage's end."""

    def __init__(self, engine: TimedEngine) -> None:
        self.engine = engine
        self.steps: list[tuple[float, float]] = []
        self.between = 0.0
        self._last = (0.0, 0.0)

    def _mark(self) -> tuple[float, float]:
        return time.process_time(), self.engine.clock.cpu_seconds

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        """A step ends, and the next one begins; callbacks that come before this one are in it."""
        now = self._mark()
        spent = now[0] - self._last[0], now[1] - self._last[1]
        if trainer.current_epoch == 1 and batch_idx > 0:
            self.steps.append(spent)
        elif trainer.current_epoch == 1:
            self.between = spent[0] - spent[1]
        self._last = now


def measured(name: str, steps: int, tokens: int) -> tuple[float, float, float]:
    """Seconds of a step, of a step without sampling, and of a stage's end with the first step without sampling."""
    callbacks, options, of_data = REMEDIES[name]()
    pl.seed_everything(0, verbose=False)
    data = MicroDataModule(
        order=["math", "sci"], steps=steps, ood=False, prior=False, evaluate_trained=False, seed=0, **of_data
    )
    module = SDPO(
        "micro", optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.0), scheduler=None, **options
    )
    engine = TimedEngine()
    rollout = RolloutCallback(sampling=Sampling(max_new_tokens=tokens), engine=engine, seed=0)
    clock = Steps(engine)
    trainer = pl.Trainer(
        **data.trainer_arguments(),
        accelerator="cpu",
        # The clock stops after all others have had their turn.
        callbacks=[rollout, *callbacks, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    whole = statistics.median(step for step, _ in clock.steps)
    return whole, statistics.median(step - sampling for step, sampling in clock.steps), clock.between


def main() -> None:
    """Measure all sides in turns, print."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=8, help="of each stage")
    chosen = options.parse_args()
    use_threads(chosen.threads)
    warnings.filterwarnings("ignore")
    steps, tokens, repeats = (2, 4, 1) if chosen.tiny else (chosen.steps, 64, chosen.repeats)
    least = {name: (math.inf, math.inf, math.inf) for name in REMEDIES}
    for _ in range(repeats):
        for name in REMEDIES:
            found = measured(name, steps, tokens)
            least[name] = tuple(map(min, least[name], found))  # type: ignore[assignment]
    base = least[NONE]
    rows = [
        {
            "remedy": name,
            "s per step": whole,
            "ratio": whole / base[0],
            "ratio without sampling": rest / base[1],
            "s at a stage's end": between - rest,
            "adds a forward pass": "yes" if name in PASSES else "no",
        }
        for name, (whole, rest, between) in least.items()
    ]
    worst = max(least[name][0] / base[0] for name in REMEDIES if name not in PASSES)
    print(f"\nwithout a forward pass more: at most {worst:.3f} of the step without a remedy; the bar is {BAR}.\n")
    report("remedies", rows, steps=steps, repeats=repeats, worst=worst, bar=BAR)


if __name__ == "__main__":
    main()
