"""Memory of real steps on a CPU against what ``lit-sdpo plan`` says of the same configuration.

Each case is a fresh process that trains random weights for two steps in the micro world, completions of full length,
half of them rewarded. Every block that torch allocates and frees is recorded from before the model is built; what lives
at once is compared with the plan's columns: ``throughout`` after a step, ``rollouts`` and ``update`` as the most of
each, less what is there throughout. The program itself and what its libraries allocate on their own do not count.

    python -m benchmarks.plan
    python -m benchmarks.plan --model FOLDER --only "sdpo, LoRA"
    python -m benchmarks.plan --size 0.6b --only sdpo
"""

from __future__ import annotations

import bisect
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from benchmarks.common import in_fresh_process, parser, report, use_threads

ROOT = Path(__file__).parents[1]
LORA, HALF = "--model.init_args.lora={rank: 16}", "--model.init_args.dtype=bfloat16"
CASES = {
    f"{method}{name}": [method, *more]
    for method in ("grpo", "sdpo")
    for name, more in {
        "": [],
        ", LoRA": [LORA],
        ", bf16 weights": [HALF],
        ", checkpointing": ["--model.init_args.gradient_checkpointing=true"],
        ", 4 slices": ["--trainer.accumulate_grad_batches=4"],
        ", autocast": ["--trainer.precision=bf16-mixed"],
    }.items()
}
SHAPES = {
    "micro": None,
    "m": (320, 8, 10, 5, 32, 960, 800),
    "s": (512, 8, 8, 4, 64, 1536, 32_768),
    "0.6b": (1024, 28, 16, 8, 128, 3072, 151_936),
}
PHASES = "rollouts", "update"
MIB = 2**20


def settings(case: str, size: str, model: str | None, tiny: bool = False) -> list[str]:
    """Arguments of ``fit``."""
    method, *more = CASES[case]
    overrides: dict[str, Any] = {}
    if (shape := SHAPES[size]) is not None and model is None:
        names = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size"
        overrides = dict(zip([*names.split(), "vocab_size"], shape, strict=True))
        overrides["layer_types"] = ["full_attention"] * shape[1]
    return [
        f"--config={ROOT / 'configs' / 'micro' / method}.yaml",
        f"--model.init_args.model_name={model or 'micro'}",
        "--model.init_args.random_weights=true",
        f"--model.init_args.config_overrides={json.dumps(overrides)}",
        "--data.init_args.order=[math]",
        "--data.init_args.steps=2",
        *([] if shape is None or model else ["--data.init_args.prompts_per_step=2"]),
        *(["--data.init_args.prompts_per_step=1", "--rollout.sampling.max_new_tokens=4"] if tiny else []),
        "--data.init_args.evaluate_trained=false",
        "--data.init_args.ood=false",
        "--data.init_args.prior=false",
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        *more,
    ]


def coin(prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Every other completion is right."""
    return [float(number % 2) for number in range(len(completions))]


def measure(arguments: list[str]) -> dict[str, float | str]:
    """Two steps in this process: the most MiB of each phase, and the operation at the peak."""
    from lit_sdpo.callbacks.rollout.callback import RolloutCallback
    from lit_sdpo.cli import LitSDPOCLI, run
    from lit_sdpo.rewards.combine import WeightedRewards

    recorded = torch.autograd.profiler.profile(profile_memory=True, use_kineto=True)

    class Measured(LitSDPOCLI):
        def before_fit(self) -> None:
            callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
            rollout = next(callback for callback in callbacks if isinstance(callback, RolloutCallback))
            rollout.rewards = WeightedRewards({"coin": cast(Any, coin)}, {"verifier": 0.0})
            self.model.reprompt = _lenient(self.model)
            generate, draw = rollout._generate, rollout.engine.generate

            def endless(*args: Any, **options: Any) -> Any:
                return draw(*args, **{**options, "end_ids": ()})

            def watched(*args: Any, **options: Any) -> Any:
                with torch.profiler.record_function("rollouts"):
                    return generate(*args, **options)

            rollout.engine.generate = endless  # type: ignore[method-assign]
            rollout._generate = watched  # type: ignore[method-assign]
            recorded.__enter__()

    with TemporaryDirectory() as folder:
        run(["fit", *arguments, f"--trainer.default_root_dir={folder}"], Measured)
    recorded.__exit__(None, None, None)
    assert recorded.kineto_results is not None
    return _most(recorded.kineto_results.events())


def _most(events: Any) -> dict[str, float | str]:
    """What lives at most in each phase, in MiB; an optimizer's step runs forward and backward pass inside."""
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    spans = [(e.start_ns(), e.start_ns() + e.duration_ns(), e.name()) for e in events if e.name() != "[memory]"]
    rollouts = [span for span in spans if span[2] == "rollouts"]
    times, live = [], [0]
    for time, size in memory:
        times.append(time)
        live.append(live[-1] + size)

    def most(start: int, end: int) -> int:
        return max(live[bisect.bisect_left(times, start) : bisect.bisect_right(times, end) + 1])

    (_, first), (second, third) = (span[:2] for span in sorted(rollouts))
    peak = times[max(range(len(times)), key=lambda n: live[n + 1])]
    inside = [(end - start, name) for start, end, name in spans if start <= peak <= end]
    return {
        "throughout": live[bisect.bisect_left(times, second)] / MIB,
        "rollouts": max(most(*span[:2]) for span in rollouts) / MIB,
        "update": max(most(first, second), most(third, times[-1])) / MIB,
        "at": " < ".join(name for _, name in sorted(inside)[:3]),
    }


def _lenient(module: Any) -> Any:
    """Every row has a demonstration: nothing ends here, and most tokens of a large vocabulary are no text."""
    from dataclasses import replace

    if not hasattr(module, "reprompt"):
        return None
    return replace(module.reprompt, allow_truncated=True, dataset_demonstrations=True)


def compared(case: str, arguments: list[str], found: dict[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    from lit_sdpo.planning.plan import plan

    memory = plan(arguments).memory
    resident = sum(memory.resident.values()) / MIB
    row: dict[str, Any] = {"case": case, "throughout": found["throughout"], "throughout: plan": resident}
    for phase in PHASES:
        row[phase] = found[phase] - found["throughout"]
        row[f"{phase}: plan"] = sum(getattr(memory, phase).values()) / MIB
    peak = max(found[phase] for phase in PHASES)
    row |= {"peak": peak, "peak: plan": memory.peak / MIB}
    return {
        **{name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()},
        "plan ÷ measured": round(memory.peak / MIB / peak, 2),
        "at": found["at"],
    }


def main() -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--measure", type=json.loads, help="arguments of one case, as the fresh process gets them")
    options.add_argument("--size", default="micro", choices=SHAPES)
    options.add_argument("--model", help="folder of a model whose architecture is taken instead of a size")
    options.add_argument("--only", choices=CASES, action="append", help="this case alone")
    given = options.parse_args()
    use_threads(given.threads)
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    rows = []
    for case in given.only or (list(CASES)[:1] if given.tiny else CASES):
        arguments = settings(case, given.size, given.model, given.tiny)
        threads = ("--threads", str(given.threads))
        found = in_fresh_process("benchmarks.plan", "--measure", json.dumps(arguments), *threads, threads=given.threads)
        rows.append(compared(case, arguments, found))
    report("plan", rows, size=given.model or given.size, threads=given.threads)


if __name__ == "__main__":
    main()
