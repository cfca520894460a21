"""A run as ``fit`` would build it, looked at without a training step."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.cli import run
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.task import Row
from lit_sdpo.diagnosis.devices import speeds
from lit_sdpo.diagnosis.findings import Check, Finding
from lit_sdpo.dry_run import BuildOnly
from lit_sdpo.errors import UserError
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.taught import Taught
from lit_sdpo.policies.exporting import stored_generation_config
from lit_sdpo.policies.load import WHERE, Lora, architecture_from, check_files, load_policy, resolve

WEIGHTS = ("*.safetensors", "*.bin")


@dataclass
class Run:
    """What ``fit`` would run.

    Attributes:
        module: The method, without its policy.
        data: The stream.
        trainer: The trainer.
        given: Arguments of the method's constructor.
    """

    module: OnPolicyModule
    data: ContinualDataModule
    trainer: pl.Trainer
    given: dict[str, Any]

    @property
    def rollout(self) -> RolloutCallback:
        """What samples."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, RolloutCallback))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer."""
        return self.module.tokenizer

    @property
    def sets(self) -> Iterator[tuple[str, Any, Sequence[Row]]]:
        """Each set of rows that training and evaluation use: its name, its task, its rows."""
        for task in self.data.tasks:
            yield f"{task.name} (train)", task, task.rows("train")
        for task in self.data.evaluated:
            yield f"{task.name} (validation)", task, self.data.evaluation_rows(task)

    @cached_property
    def policy(self) -> Any:
        """The policy with the shapes of its weights and nothing in them; the module and its teacher hold it too.

        Raises:
            UserError: The model cannot be built.
        """
        known = inspect.signature(load_policy).parameters
        options = {key: value for key, value in self.given.items() if key in known}
        if isinstance(options.get("lora"), dict):
            options["lora"] = Lora(**options["lora"])
        name = options.pop("model_name")
        if not self.given.get("random_weights"):
            self._check_weights(name, trust_remote_code=bool(options.get("trust_remote_code")))
            options |= {"random_weights": True, "config_overrides": None}
        if options.get("dtype") == "auto":
            stored = architecture_from(resolve(name), {}, bool(options.get("trust_remote_code"))).dtype
            options["dtype"] = str(stored or torch.float32).removeprefix("torch.")
        if isinstance(self.module, Taught):
            for model, where in self.module.teacher.models:
                self._check_weights(model, where)
            self.module.teacher.check_tokenizer(self.module.tokenizer)
        with torch.device("meta"):
            policy: Any = load_policy(name, **options)
            self.module._load = lambda: policy
            self.module.expect(self.data.stages)
            self.module.configure_model()
        self.trainer.strategy.precision_plugin.convert_module(self.module)
        if not self.given.get("random_weights"):
            policy.generation_config = stored_generation_config(name) or policy.generation_config
        return policy

    def _check_weights(self, name: str, where: str = WHERE, trust_remote_code: bool = False) -> None:
        folder = Path(resolve(name, where))
        if not folder.exists():  # whether those of the Hub fit shows when they are loaded
            return
        if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
            raise UserError(f"{name!r} holds no weights", where=where, fix="put model.safetensors beside config.json")
        check_files(name, where, trust_remote_code)


def checks_of(settings: Sequence[str]) -> list[tuple[str, Check]]:
    """The checks of a configuration; where it cannot be built, the others find nothing.

    Args:
        settings: Arguments of ``fit``.
    """
    from lit_sdpo.diagnosis import behaviour, costs, prompts, scoring

    disable_progress_bar()  # of loading weights

    built: list[Run] = []

    def building() -> Iterator[Finding]:
        built.append(build(settings))
        yield _summary(built[0])

    told: set[str] = set()

    def then(check: Callable[[Run], Iterable[Finding]]) -> Check:
        def findings() -> Iterator[Finding]:
            try:
                yield from check(built[0]) if built else ()
            except Exception as error:
                if str(error) not in told:  # several checks need the policy
                    told.add(str(error))
                    raise

        return findings

    parts = {
        "model": _model,
        "prompts": prompts.lengths,
        "likelihood": prompts.likelihood,
        "chat template": prompts.template,
        "rendered": prompts.rendered,
        "rewards": scoring.rewards,
        behaviour.PART: behaviour.met,
        "evaluation": costs.evaluation,
        "memory of a step": costs.memory,
        "checkpoints": costs.checkpoints,
    }
    return [("configuration", building), *((part, then(check)) for part, check in parts.items())]


def build(settings: Sequence[str]) -> Run:
    """Build what ``fit`` with these arguments would run.

    Raises:
        UserError: A mistake in them.
    """
    logging.disable(logging.INFO)  # Lightning tells which devices it found; so do the findings
    try:
        made = run(["fit", *settings], BuildOnly)
    finally:
        logging.disable(logging.NOTSET)
    given = made.config["fit"].model.init_args.as_dict()
    module: Any = made.model
    data: Any = made.datamodule
    made.trainer.datamodule = data  # type: ignore[attr-defined]
    data.trainer = made.trainer
    return Run(module, data, made.trainer, given)


def _summary(run: Run) -> Finding:
    stages = [f"{stage.task} {stage.steps}x{stage.prompts_per_step}" for stage in run.data.stages]
    shown = " > ".join(stages[:8]) + (" > ..." if len(stages) > 8 else "")
    probes = f", probes {', '.join(run.data.probe_names)}" if run.data.probe_names else ""
    device = f"{run.trainer.accelerator.__class__.__name__.removesuffix('Accelerator')} x {run.trainer.world_size}"
    text = (
        f"{type(run.module).__name__} on {run.given['model_name']}: {shown} (task, steps x prompts){probes}; {device}"
    )
    return Finding("configuration", "ok", text)


def _model(run: Run) -> Iterator[Finding]:
    policy = run.policy
    parameters = list(policy.parameters())
    count, trained = (sum(p.numel() for p in some) for some in (parameters, [p for p in parameters if p.requires_grad]))
    share = "" if count == trained else f", {trained:,} of them trained"
    kind = str(policy.dtype).removeprefix("torch.")
    config = policy.config.get_text_config()
    tied = "tied" if getattr(config, "tie_word_embeddings", False) else "untied"
    text = (
        f"{config.model_type}, {count:,} parameters{share}, {kind}, {tied} embeddings, vocabulary {config.vocab_size:,}"
    )
    yield Finding("model", "ok", text)
    yield from _slow_precision(run)


def _slow_precision(run: Run) -> Iterator[Finding]:
    """A precision below float32 that is slower than float32 on this processor."""
    device, precision = run.trainer.strategy.root_device, str(run.trainer.precision)
    names = {"bf16": "bfloat16", "16": "float16"}
    kind = names.get(precision.partition("-")[0], str(run.policy.dtype).removeprefix("torch."))
    if device.type != "cpu" or kind == "float32":
        return
    found = speeds(device)
    if kind not in found or found[kind][0] < found["float32"][0]:
        ratio = found["float32"][0] / found[kind][0] if kind in found else math.inf
        text = f"{kind} is {ratio:.1f} times slower than float32 on this processor"
        yield Finding("model", "note", text, "use model.dtype float32 and trainer.precision 32-true, if memory allows")
