"""What the measuring callbacks cost: CPU time inside their hooks, as a share of a full run of the micro world.

Runs the first stages of ``configs/micro/sdpo.yaml``, shortened, on all of its 9 tasks, with a process-time clock
around every hook of every measuring callback; generation and scoring for evaluations belong to the run, not to them.
The full run has 4 stages of 75 steps and 5 evaluations of 64 prompts per task. Its shares are projected as::

    callback = once + per stage * 4 + per evaluation * 5 + per step * 300
    run      = everything else per step * 300 + per evaluation * 5 + the callbacks

with evaluations scaled by the number of prompts. Everything else per step is what remains of the short run, so the few
seconds that each stage's checkpoint takes count as steps there.

    python -m benchmarks.callbacks
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop

import lit_sdpo.callbacks
from benchmarks.common import Clock, parser, report, use_threads
from lit_sdpo.cli import run

CONFIG = Path(__file__).parents[1] / "configs" / "micro" / "sdpo.yaml"
#: Callbacks that stand in no run by themselves; the other measuring ones do.
ASKED_FOR = ("ParameterDrift", "ResponseDrift", "ArtifactMonitor", "CollapseMonitor")
MEASURING = (*ASKED_FOR, "ForgettingMatrix", "SampleLogger", "TensorBoardLayout")
STAGES, STEPS, PROMPTS = 4, 300, 64
#: Most of the full run's CPU time that the callbacks may take together.
BAR = 0.15

Kind = Literal["once", "stage", "evaluation", "step"]
FREQUENCIES: tuple[Kind, ...] = ("once", "stage", "evaluation", "step")
#: Hooks by how often they come; every other one comes with each step.
KINDS: dict[str, Kind] = {
    "setup": "once",
    "on_fit_start": "once",
    "on_train_start": "once",
    "on_train_end": "once",
    "on_fit_end": "once",
    "teardown": "once",
    "on_train_epoch_start": "stage",
    "on_train_epoch_end": "stage",
    "on_validation_start": "evaluation",
    "on_validation_end": "evaluation",
}
#: Hooks outside the fit loop.
OUTSIDE = ("setup", "on_fit_start", "on_fit_end", "teardown")


class Hooks:
    """CPU seconds of each callback, by how often the hook comes, and those of the loops around them."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[Kind, float]] = defaultdict(lambda: dict.fromkeys(FREQUENCIES, 0.0))
        #: Of all callbacks in the fit loop, and of those in evaluations.
        self.inside = {"fit": 0.0, "evaluation": 0.0}
        self.fit, self.evaluation, self.evaluations = Clock(), Clock(), 0
        self._running = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put the clocks in."""
        with ExitStack() as stack:
            for loop, clock in ((_FitLoop, self.fit), (_EvaluationLoop, self.evaluation)):
                stack.enter_context(mock.patch.object(loop, "run", self._loop(loop.run, clock)))
            for name in MEASURING:
                callback = getattr(lit_sdpo.callbacks, name)
                for hook, method in list(vars(callback).items()):
                    if hook.startswith("on_") or hook in KINDS:
                        stack.enter_context(mock.patch.object(callback, hook, self._timed(name, hook, method)))
            yield

    def _loop(self, loop: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
        @functools.wraps(loop)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.evaluations += clock is self.evaluation
            with clock.running():
                return loop(*args, **kwargs)

        return timed

    def _timed(self, callback: str, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._running:  # a hook that calls another one
                return hook(*args, **kwargs)
            clock, self._running = Clock(), True
            try:
                with clock.running():
                    return hook(*args, **kwargs)
            finally:
                self._running = False
                kind: Kind = KINDS.get(name, "step")
                if name == "on_rollouts" and kwargs["split"] == "validation":
                    kind = "evaluation"
                self.seconds[callback][kind] += clock.cpu_seconds
                if name not in OUTSIDE:
                    self.inside["fit"] += clock.cpu_seconds
                    self.inside["evaluation"] += clock.cpu_seconds if kind == "evaluation" else 0

        return timed


def configuration(folder: str, stages: int, steps: int, prompts: int, *, tiny: bool) -> Path:
    """A configuration of the short run."""
    options = {"ResponseDrift": {"num_prompts": 2, "num_generations": 1, "max_new_tokens": 4}} if tiny else {}
    callbacks = [{"class_path": name, "init_args": options.get(name, {})} for name in ASKED_FOR]
    config: dict[str, Any] = {
        "extends": str(CONFIG),
        "data": {"init_args": {"steps": steps, "eval_prompts": prompts}},
        "trainer": {
            "callbacks": callbacks,
            "max_epochs": stages,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"init_args": {"save_dir": folder}},
        },
    }
    if tiny:
        config["data"]["init_args"] |= {"prompts_per_step": 2, "eval_generations": 1}
        config["rollout"] = {"num_generations": 2, "sampling": {"max_new_tokens": 4}}
    path = Path(folder) / "run.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def projected(hooks: Hooks, stages: int, steps: int, prompts: int) -> tuple[list[dict[str, Any]], float]:
    """CPU seconds of the full run, by callback, and of the whole."""
    evaluations = STAGES + 1
    scale: dict[Kind, float] = {
        "once": 1.0,
        "stage": STAGES / stages,
        "evaluation": evaluations / hooks.evaluations * PROMPTS / prompts,
        "step": STEPS / (stages * steps),
    }
    evaluation = hooks.evaluation.cpu_seconds - hooks.inside["evaluation"]
    rest = hooks.fit.cpu_seconds - hooks.inside["fit"] - evaluation
    full = {name: sum(scale[kind] * x for kind, x in own.items()) for name, own in hooks.seconds.items()}
    total = sum(full.values()) + rest * scale["step"] + evaluation * scale["evaluation"]
    rows: list[dict[str, Any]] = []
    for name in sorted(full, key=full.__getitem__, reverse=True):
        own = hooks.seconds[name]
        each: dict[Kind, int] = {"stage": stages, "evaluation": hooks.evaluations, "step": stages * steps, "once": 1}
        costs = {f"s per {kind}" if kind != "once" else "s once": own[kind] / n for kind, n in each.items()}
        rows.append({"callback": name, **costs, "s in the full run": full[name], "share": full[name] / total})
    return rows, total


def main() -> None:
    """Run, project, print."""
    options = parser(__doc__)
    options.add_argument("--stages", type=int, choices=range(1, 5), default=2)
    options.add_argument("--steps", type=int, default=12, help="of each stage")
    options.add_argument("--eval-prompts", type=int, default=32, help="of each task in each evaluation")
    chosen = options.parse_args()
    use_threads(chosen.threads)
    sizes = (1, 1, 2) if chosen.tiny else (chosen.stages, chosen.steps, chosen.eval_prompts)
    hooks = Hooks()
    with tempfile.TemporaryDirectory() as folder, hooks.watching():
        run(["fit", "--config", str(configuration(folder, *sizes, tiny=chosen.tiny))])
    rows, total = projected(hooks, *sizes)
    share = sum(row["share"] for row in rows)
    print(f"\n{100 * share:.1f} % of {total:.0f} CPU seconds of the full run; the bar is {100 * BAR:.0f} %.\n")
    report(
        "callbacks",
        rows,
        stages=sizes[0],
        steps=sizes[1],
        evaluations=hooks.evaluations,
        cpu_seconds=hooks.fit.cpu_seconds,
        full_run_cpu_seconds=total,
        share=share,
        bar=BAR,
    )


if __name__ == "__main__":
    main()
