"""Memory of real steps on a CPU against what ``lit-sdpo plan`` says of the same configuration.

Each case is a fresh process that trains a random Qwen3 for two steps in the micro world, completions of full length,
half of them rewarded. Resident memory is read where the plan has its columns: ``throughout`` after a step, ``rollouts``
and ``update`` as the most of each, less what is there throughout. What the process has before the model is loaded does
not count. Freed memory goes back to the system at once (``MALLOC_MMAP_THRESHOLD_``), as it would on an accelerator.

    python -m benchmarks.plan
    python -m benchmarks.plan --size 0.6b --only sdpo

A table of its own has the parts of the plan: by how much resident memory grows where the model is loaded and copied, in
a slice's forward pass, over its loss, and from the first gradients to the end of the first step.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from benchmarks.common import in_fresh_process, parser, report, status_mb, use_threads
from lit_sdpo.policies.scoring import decoder

ROOT = Path(__file__).parents[1]
CASES = {
    "grpo": ["grpo"],
    "sdpo": ["sdpo"],
    "grpo, checkpointing": ["grpo", "--model.init_args.gradient_checkpointing=true"],
    "sdpo, LoRA": ["sdpo", "--model.init_args.lora={rank: 16}"],
}
SHAPES = {
    "tiny": (32, 2, 2, 1, 16, 64, 800, 4),
    "s": (512, 8, 8, 4, 64, 1536, 32_768, 64),
    "0.6b": (1024, 28, 16, 8, 128, 3072, 151_936, 64),
}
MIB = 2**20


def settings(case: str, size: str) -> list[str]:
    """Arguments of ``fit``."""
    method, *more = CASES[case]
    hidden, layers, heads, kv_heads, head, inner, vocabulary, tokens = SHAPES[size]
    shape: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "eos_token_id": None,
    }
    shape["layer_types"] = ["full_attention"] * layers
    return [
        f"--config={ROOT / 'configs' / 'micro' / method}.yaml",
        "--model.init_args.random_weights=true",
        f"--model.init_args.config_overrides={json.dumps(shape)}",
        "--data.init_args.order=[math]",
        "--data.init_args.steps=2",
        "--data.init_args.prompts_per_step=2",
        f"--rollout.sampling.max_new_tokens={tokens}",
        "--rollout.max_prompt_tokens=32",
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


class Reader(pl.Callback):
    """Most resident memory of each phase, in MiB above where the count began, and how much each part added."""

    def __init__(self) -> None:
        self.begin = 0.0
        self.most: dict[str, float] = {}
        self.parts: dict[str, float] = {}
        self._mark = 0.0

    def start(self) -> None:
        """The most so far becomes that of now."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")

    def stop(self, phase: str) -> None:
        """Note the most since the start of this phase."""
        self.most[phase] = max(self.most.get(phase, 0.0), status_mb("VmHWM") - self.begin)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """A step is over."""
        self.stop("update")
        gc.collect()
        self.most["throughout"] = status_mb("VmRSS") - self.begin
        # Gradients came and went meanwhile: what stays of a first step is the optimizer's.
        self.parts.setdefault("optimizer", status_mb("VmRSS") - self._mark)

    # ------------------------------------------------------------------------------------------------------------ parts
    def grows(self, part: str, act: Callable[[], Any]) -> Any:
        """Do something and note by how much resident memory has grown after it."""
        before = status_mb("VmRSS")
        result = act()
        gc.collect()
        self.parts[part] = status_mb("VmRSS") - before
        return result

    def watch_slices(self, module: Any) -> None:
        """Note what the policy's forward pass of a slice keeps, and the most of its loss after that of a teacher."""
        part = decoder(module.policy)
        part.register_forward_pre_hook(self._before_forward)
        for other in module.modules():
            if type(other) is type(part):
                other.register_forward_hook(self._after_forward)

    def _before_forward(self, module: nn.Module, *args: Any) -> None:
        if torch.is_grad_enabled():
            self.stop("update")  # the most so far, which the next line forgets
            self.start()
            self._forward = status_mb("VmRSS")
            if "gradients" not in self.parts:
                self._mark = self._forward

    def _after_forward(self, module: nn.Module, *args: Any) -> None:
        self.stop("update")
        if torch.is_grad_enabled():
            self._loss = status_mb("VmRSS")
            self._most("activations", self._loss - self._forward)
        self.start()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """The loss is there, and with it the gradient of the head."""
        self.stop("update")
        kept = status_mb("VmRSS") - self._loss
        self._most("gradient of the head", kept)
        self._most("logits in chunks", status_mb("VmHWM") - self._loss - kept)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """All gradients are there, and no activation is."""
        self.parts.setdefault("gradients", status_mb("VmRSS") - self._mark)

    def _most(self, part: str, value: float) -> None:
        self.parts[part] = max(self.parts.get(part, 0.0), value)


def measure(case: str, size: str) -> dict[str, dict[str, float]]:
    """Two steps in this process: memory by phase and by part."""
    from lit_sdpo.callbacks.rollout.callback import RolloutCallback
    from lit_sdpo.cli import LitSDPOCLI, run
    from lit_sdpo.rewards.combine import WeightedRewards

    reader = Reader()

    class Measured(LitSDPOCLI):
        def before_fit(self) -> None:
            callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
            callbacks.append(reader)
            rollout = next(callback for callback in callbacks if isinstance(callback, RolloutCallback))
            rollout.rewards = WeightedRewards({"coin": cast(Any, coin)}, {"verifier": 0.0})
            self.model.reprompt = _lenient(self.model)
            generate = rollout._generate

            def watched(*args: Any, **options: Any) -> Any:
                reader.start()
                made = generate(*args, **options)
                reader.stop("rollouts")
                reader.start()
                return made

            rollout._generate = watched  # type: ignore[method-assign]
            load, copy = self.model._load, self.model.attach_copies

            def copied() -> None:
                reader.grows("teacher and other copies", copy)
                reader.watch_slices(self.model)

            self.model._load = lambda: reader.grows("weights", load)
            self.model.attach_copies = copied
            gc.collect()
            reader.begin = status_mb("VmRSS")

    with TemporaryDirectory() as folder:
        run(["fit", *settings(case, size), f"--trainer.default_root_dir={folder}"], Measured)
    most = reader.most
    phases = {name: most[name] - (0 if name == "throughout" else most["throughout"]) for name in most}
    return {"phases": phases, "parts": reader.parts}


def _lenient(module: Any) -> Any:
    """Every row has a demonstration: nothing ends here, and most tokens of a large vocabulary are no text."""
    from dataclasses import replace

    if not hasattr(module, "reprompt"):
        return None
    return replace(module.reprompt, allow_truncated=True, dataset_demonstrations=True)


def predict(case: str, size: str) -> dict[str, dict[str, float]]:
    """The same from the plan."""
    from lit_sdpo.planning.plan import plan

    memory = plan(settings(case, size)).memory
    columns = {"throughout": memory.resident, "rollouts": memory.rollouts, "update": memory.update}
    parts = {name: size / MIB for column in columns.values() for name, size in column.items()}
    parts["gradients"] = 4 * memory.trained / MIB  # of one slice they take the place of activations
    return {"phases": {name: sum(parts.values()) / MIB for name, parts in columns.items()}, "parts": parts}


def _phases(found: dict[str, float], said: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in said.items():
        row |= {f"{name} MiB": round(found[name]), f"{name}: plan MiB": round(value)}
    peak, planned = (x["throughout"] + max(x["rollouts"], x["update"]) for x in (found, said))
    return row | {"peak MiB": round(peak), "plan ÷ measured": round(planned / peak, 2)}


def main() -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--case", choices=CASES, help="one case, as the fresh process gets it")
    options.add_argument("--size", default="s", choices=SHAPES)
    options.add_argument("--only", choices=CASES, help="this case alone")
    given = options.parse_args()
    use_threads(given.threads)
    size = "tiny" if given.tiny else given.size
    if given.case:
        print(json.dumps(measure(given.case, size)))
        return
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**17)
    rows, parts = [], []
    for case in [given.only] if given.only else CASES:
        arguments = ("--case", case, "--size", size, "--threads", str(given.threads))
        found = in_fresh_process("benchmarks.plan", *arguments, threads=given.threads)
        said = predict(case, size)
        rows.append({"case": case, **_phases(found["phases"], said["phases"])})
        parts += [
            {
                "case": case,
                "part": name,
                "plan MiB": round(said["parts"][name]),
                "measured MiB": round(measured),
                "plan ÷ measured": round(said["parts"][name] / measured, 2),
            }
            for name, measured in found["parts"].items()
            if said["parts"].get(name)
        ]
    report("plan by part", parts, size=size, threads=given.threads)
    report("plan", rows, size=size, threads=given.threads)


if __name__ == "__main__":
    main()
