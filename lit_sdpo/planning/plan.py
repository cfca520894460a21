"""The plan of a run: how much it does, what it needs, how long it takes at a given speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from lit_sdpo.callbacks.memory import slices_of
from lit_sdpo.planning.build import architecture_of, folder_of, module_of
from lit_sdpo.planning.settings import Devices, Settings, devices_of, parse, placement_of
from lit_sdpo.planning.stream import EvaluationPlan, StagePlan, at_hand, data_of, evaluation_of, stages_of
from lit_sdpo.policies.load import MICRO, resolve
from lit_sdpo.policies.memory import StepCount, StepMemory, checkpoint_bytes
from lit_sdpo.rewards.registry import import_object
from lit_sdpo.rollouts.engines.base import RolloutEngine
from lit_sdpo.rollouts.engines.native import NativeEngine


@dataclass(frozen=True)
class Speed:
    """What one device does in a second, as a benchmark has found.

    Attributes:
        decode: Completion tokens that it generates.
        update: Completion tokens that it trains on, teacher included.
    """

    decode: float | None = None
    update: float | None = None


@dataclass(frozen=True)
class Checkpoints:
    """What is left on disk.

    Attributes:
        stage_ends: Checkpoints of stage ends that are kept.
        inside: Checkpoints inside stages that are kept.
        bytes: Of one.
    """

    stage_ends: int
    inside: int
    bytes: int

    @property
    def total(self) -> int:
        """Bytes of all."""
        return (self.stage_ends + self.inside) * self.bytes


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes:
        method: Class of the method.
        model: Name of the model.
        devices: How it is spread.
        stages: What each stage does.
        evaluation: What all evaluations do.
        parameters: Of the policy.
        trained: Of these, those that are trained.
        memory: What a device needs for a step.
        checkpoints: What is left on disk.
        tokens_per_completion: Expected; ``None`` leaves all at most.
        speed: Of one device.
    """

    method: str
    model: str
    devices: Devices
    stages: list[StagePlan]
    evaluation: EvaluationPlan
    parameters: int
    trained: int
    memory: StepMemory
    checkpoints: Checkpoints
    tokens_per_completion: float | None
    speed: Speed

    def tokens(self, completions: int, most: int) -> float:
        """Expected tokens of some completions, or the most there can be."""
        given = self.tokens_per_completion
        return most if given is None else completions * given

    @property
    def training_tokens(self) -> float:
        """Generated for training."""
        return self.tokens(sum(s.sampled for s in self.stages), sum(s.tokens for s in self.stages))

    @property
    def evaluation_tokens(self) -> float:
        """Generated for evaluations."""
        return self.tokens(self.evaluation.completions, self.evaluation.tokens)

    @property
    def evaluation_share(self) -> float:
        """Of all that is generated."""
        return self.evaluation_tokens / max(self.evaluation_tokens + self.training_tokens, 1)

    @property
    def updated_tokens(self) -> float:
        """Completion tokens that updates go through."""
        rows = sum(stage.completions for stage in self.stages)
        return self.tokens(rows, rows * self.memory.window.completion)

    @property
    def expected_peak(self) -> int | None:
        """Bytes of a device at the most, where all completions have the expected length."""
        if self.tokens_per_completion is None:
            return None
        window, length = self.memory.window, math.ceil(self.tokens_per_completion)
        blocks = tuple(replace(block, completion=min(block.completion, length)) for block in window.blocks)
        parts = dict(self.memory.rollouts)
        parts["keys and values"] = (
            parts.get("keys and values", 0) * replace(window, blocks=blocks).cached // max(window.cached, 1)
        )
        return replace(self.memory, rollouts=parts).peak

    @property
    def seconds(self) -> dict[str, float]:
        """Of each part whose speed is given."""
        parts = {
            "rollouts": (self.training_tokens, self.speed.decode),
            "evaluations": (self.evaluation_tokens, self.speed.decode),
            "updates": (self.updated_tokens, self.speed.update),
        }
        return {name: n / speed / self.devices.count for name, (n, speed) in parts.items() if speed is not None}

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; sizes in bytes."""
        return {
            **asdict(self),
            "training_tokens": self.training_tokens,
            "evaluation_tokens": self.evaluation_tokens,
            "evaluation_share": self.evaluation_share,
            "updated_tokens": self.updated_tokens,
            "memory_peak": self.memory.peak,
            "expected_peak": self.expected_peak,
            "checkpoints_total": self.checkpoints.total,
            "seconds": self.seconds,
        }


def plan(
    arguments: Sequence[str],
    *,
    architecture: str | None = None,
    rows: Mapping[str, int] | None = None,
    tokens_per_completion: float | None = None,
    speed: Speed | None = None,
) -> RunPlan:
    """Work out what ``fit`` with these arguments would do.

    Args:
        arguments: ``--config FILE`` and overrides.
        architecture: Folder with the model's ``config.json``; ``None`` takes that of ``model_name``.
        rows: Evaluated rows of tasks whose data are not on this machine.
        tokens_per_completion: Expected length of completions, in training and evaluation.
        speed: Of one device.

    Raises:
        UserError: A mistake in them, or something that cannot be known here.
    """
    settings = parse(arguments)
    devices = devices_of(settings)
    data = data_of(settings, rows or {})
    rollout = settings.build("rollout", _without(settings, "rollout", "engine"))
    rollout.engine = _engine(settings)
    folder = None if architecture else folder_of(settings)
    module = module_of(
        settings,
        architecture_of(settings, architecture, _files(arguments)),
        folder or Path(resolve(MICRO)),
        data.stages,
    )
    if folder is not None and not rows and at_hand(settings):
        rollout.read_prompts(data, module)
    samples = module.learns_from == "policy"
    evaluation = evaluation_of(data, rollout, evaluates=settings.get("trainer.limit_val_batches", 1.0) != 0)
    window = rollout.window(data, module, devices.count, evaluation.count > 0)
    count = StepCount(module, module.policy, window, placement_of(settings, devices), module.float32_masters)
    slices = slices_of(count, settings.get("memory.gib"), int(settings.get("trainer.accumulate_grad_batches", 1)))
    parameters = list(module.policy.parameters())
    size = checkpoint_bytes(module, module.policy, module.float32_masters)
    return RunPlan(
        method=type(module).__name__,
        model=str(settings.get("model.init_args.model_name")),
        devices=devices,
        stages=stages_of(data, rollout, samples=samples),
        evaluation=evaluation,
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        memory=count.of(slices),
        checkpoints=_checkpoints(settings, [stage.steps for stage in data.stages], size),
        tokens_per_completion=tokens_per_completion,
        speed=speed or Speed(),
    )


def _files(arguments: Sequence[str]) -> list[str]:
    """The configuration files among the arguments of ``fit``."""
    files = [after for word, after in pairwise(arguments) if word == "--config"]
    return files + [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]


def _engine(settings: Settings) -> RolloutEngine:
    """What a run's engine says of its memory, without building it: that would open a connection."""
    given = settings.get("rollout.engine")
    engine = NativeEngine(max_rows=settings.get("rollout.engine.init_args.max_rows"))
    engine.can_ask_ahead = given is not None and import_object(given.class_path).can_ask_ahead
    return engine


def _without(settings: Settings, key: str, *options: str) -> Any:
    """A key's values, some options at their default ``None``: building them would open a connection."""
    values = settings.config[key].clone()
    for option in options:
        values[option] = None
    return values


def _checkpoints(settings: Settings, steps: Sequence[int], size: int) -> Checkpoints:
    if settings.get("trainer.enable_checkpointing", True) is False or settings.get("checkpoint") is None:
        return Checkpoints(0, 0, size)
    keep, every = settings.get("checkpoint.keep", -1), settings.get("checkpoint.every_n_steps")
    ends = [sum(steps[: number + 1]) for number in range(len(steps))]
    inside = len(set(range(every, ends[-1], every)) - set(ends)) if every else 0
    return Checkpoints(
        stage_ends=len(steps) if keep == -1 else min(keep, len(steps)),
        inside=min(inside, settings.get("checkpoint.keep_steps", 2)),
        bytes=size,
    )
