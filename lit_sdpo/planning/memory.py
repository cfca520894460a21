"""What each device has to hold, part by part: the method is built without storage and counted."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PretrainedConfig

from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.errors import UserError
from lit_sdpo.functional.logprobs import default_chunk_size
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.planning.settings import Devices, Settings
from lit_sdpo.policies.load import WHERE, architecture_from, resolve
from lit_sdpo.policies.memory import StepMemory, activation_bytes, nbytes, optimizer_bytes, step_memory
from lit_sdpo.rollouts.blocks import at_once

LOGIT_COPIES = 3
"""Tensors of a row's logits while a token is drawn: the model's, float32 and the sampler's weights."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes that one device needs, by part; rollouts and update follow each other.

    Attributes:
        resident: What is there throughout.
        rollouts: What generation adds.
        update: What the forward and backward pass over one slice add.
        slices: Slices that a step is cut into.
        slice_tokens: Most tokens of a slice.
        parameters: Of the policy.
        trained: Of these, those that are trained.
        checkpoint: Bytes of a checkpoint.
    """

    resident: dict[str, int]
    rollouts: dict[str, int]
    update: dict[str, int]
    slices: int
    slice_tokens: int
    parameters: int
    trained: int
    checkpoint: int

    @property
    def peak(self) -> int:
        """The most at any time."""
        return sum(self.resident.values()) + max(sum(self.rollouts.values()), sum(self.update.values()))


@dataclass(frozen=True)
class Window:
    """What one device holds of a step, at most.

    Attributes:
        prompts: Prompts of a step.
        rows: Completions of a step.
        prompt: Tokens of a prompt.
        completion: Tokens of a completion.
        evaluated: Prompts and completions of one batch of an evaluation.
        evaluation_completion: Tokens of a completion there.
        max_rows: Most completions that the engine decodes at once; ``None`` for all.
    """

    prompts: int
    rows: int
    prompt: int
    completion: int
    evaluated: tuple[int, int]
    evaluation_completion: int
    max_rows: int | None = None

    @property
    def tokens(self) -> int:
        """Of an update, prompts once."""
        return self.prompts * self.prompt + self.rows * self.completion

    def generated(self, samples: bool) -> tuple[int, int]:
        """Tokens and rows decoded at once: the larger of a step's rollouts and an evaluation's batch."""
        trained = self._decoded(self.prompts, self.rows, self.completion) if samples else (0, 0)
        return max(trained, self._decoded(*self.evaluated, self.evaluation_completion))

    def _decoded(self, prompts: int, rows: int, completion: int) -> tuple[int, int]:
        held, decoded = at_once(prompts, rows // max(prompts, 1), self.max_rows)
        return held * self.prompt + decoded * completion, decoded


def architecture_of(settings: Settings, folder: str | None) -> PretrainedConfig:
    """The model's configuration, overrides included; its weights are not looked at.

    Args:
        settings: The configuration of the run.
        folder: A folder with the ``config.json`` to use; ``None`` takes that of ``model_name``, from the Hub if need
            be.

    Raises:
        UserError: It cannot be had.
    """
    name = folder or settings.get("model.init_args.model_name")
    try:
        return architecture_from(resolve(name), settings.get("model.init_args.config_overrides", {}))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot read the architecture of {name!r} ({str(error).strip().splitlines()[0][:160]})",
            where="--architecture" if folder else WHERE,
            fix="name a folder that holds its config.json with --architecture",
        ) from error


def module_of(settings: Settings, architecture: PretrainedConfig) -> OnPolicyModule:
    """The method with its policy and all copies of it, none of which has storage."""
    given = settings.config.model.clone()
    options = given.init_args
    if options.get("dtype") == "auto":
        options["dtype"] = str(architecture.dtype or torch.float32).removeprefix("torch.")
    if (options.get("teacher") or {}).get("init_args", {}).get("checkpoint") is not None:
        options["teacher.init_args.checkpoint"] = None  # it would be read
    if options.get("compile"):
        options["compile"] = False  # this machine may lack what it needs
    with _stand_in(architecture) as folder:
        options["model_name"], options["random_weights"] = folder, True
        if options.get("config_overrides"):
            options["config_overrides"] = None  # the architecture has them
        module: OnPolicyModule = settings.build("model", given)
        with torch.device("meta"):
            module.configure_model()
    half = {"bf16-true": torch.bfloat16, "16-true": torch.float16}.get(str(settings.get("trainer.precision")))
    return module if half is None else module.to(half)


def memory_of(module: Any, settings: Settings, devices: Devices, window: Window) -> DeviceMemory:
    """What one device needs.

    Args:
        module: The method without storage.
        settings: The configuration of the run.
        devices: How the model is spread.
        window: What a device holds of a step.

    Raises:
        UserError: A budget (``memory.gib``) that not even the longest row fits.
    """
    policy, samples = module.policy, module.learns_from == "policy"
    on_cpu = settings.get("trainer.accelerator") == "cpu"
    vocabulary = policy.config.get_text_config().vocab_size
    share = devices.shards
    counted = step_memory(module, policy, share, module.float32_masters)
    counted = replace(counted, chunk=default_chunk_size(vocabulary, torch.device("cpu" if on_cpu else "cuda")))
    resident = {
        "weights": counted.weights,
        "teacher and other copies": counted.copies,
        "optimizer": counted.optimizer,
        "float32 masters": counted.masters,
    }
    if devices.strategy == "DDP":
        resident["gradients in buckets"] = counted.gradients
    added: dict[str, int] = {}
    if str(settings.get("trainer.precision")) in ("bf16-mixed", "16-mixed") and policy.dtype == torch.float32:
        counted, added["half-precision weights (autocast)"] = _mixed(counted, policy)
    slices, slice_tokens = _slices(counted, settings, window)
    tokens, rows = window.generated(samples)
    activations = slice_tokens * (counted.per_token + counted.recomputed)
    logits = min(counted.chunk, slice_tokens) * counted.logits
    gradients = counted.gradients
    if devices.strategy == "DDP" and devices.bucket_views:  # they are the buckets
        gradients = 0
    elif slices == 1:  # they take the place of activations
        gradients = max(0, gradients - slice_tokens * counted.per_token - logits)
    update = {
        **added,
        "gradients": gradients,
        "layers gathered at a time": counted.gathered,
        "activations": activations,
        "logits in chunks": logits,
        "gradient of the head": counted.head_gradient,
    }
    # The optimizer's step comes after all of this, with the gradients alone, in float32 for masters.
    update["float32 gradients, beyond that"] = max(0, counted.stepped - sum(update.values()))
    return DeviceMemory(
        resident=_there(resident),
        rollouts=_there(
            {
                **added,
                "whole weights, gathered": counted.whole,
                "keys and values": tokens * counted.cache,
                "logits of a token": LOGIT_COPIES * 4 * vocabulary * rows,
            }
        ),
        update=_there(update),
        slices=slices,
        slice_tokens=slice_tokens,
        parameters=sum(p.numel() for p in policy.parameters()),
        trained=sum(p.numel() for p in policy.parameters() if p.requires_grad),
        checkpoint=_checkpoint_bytes(module) + sum(optimizer_bytes(policy, module.float32_masters)),
    )


def window_of(
    data: ContinualDataModule,
    rollout: Any,
    devices: Devices,
    *,
    samples: bool,
    evaluates: bool = True,
    max_rows: int | None = None,
) -> Window:
    """The longest step and evaluation batch of one device, and how many rows its engine decodes at once."""
    prompts = -(-max(stage.prompts_per_step for stage in data.stages) // devices.count)
    prompts += math.ceil(data.replay_share * prompts)
    largest = max((len(data.evaluation_rows(task)) for task in data.evaluated), default=0)
    evaluated = min(data.eval_batch_size, -(-largest // devices.count)) if evaluates else 0
    return Window(
        prompts=prompts,
        rows=prompts * (rollout.num_generations if samples else 1),
        prompt=rollout.max_prompt_tokens,
        completion=rollout.sampling.max_new_tokens,
        evaluated=(evaluated, evaluated * data.eval_generations),
        evaluation_completion=rollout.evaluation_sampling.max_new_tokens,
        max_rows=max_rows,
    )


@contextmanager
def _stand_in(architecture: PretrainedConfig) -> Iterator[str]:
    """A folder with this architecture and the shipped model's tokenizer, which any method can be built from."""
    with TemporaryDirectory() as folder:
        for file in Path(resolve("micro")).iterdir():
            if file.is_file() and file.suffix != ".safetensors" and file.name != "config.json":
                shutil.copy(file, folder)
        architecture.save_pretrained(folder)
        yield folder


def _mixed(counted: StepMemory, policy: Any) -> tuple[StepMemory, int]:
    """The step of a float32 policy under autocast, and the weights' half-precision copies that autocast keeps.

    Layers compute in half precision; what runs between them, and so the keys after their rotation, stays float32.
    """
    per_token, recomputed = activation_bytes(copy.deepcopy(policy).to(torch.bfloat16))
    kept = counted.per_token if recomputed else per_token  # under checkpointing the inputs of the layers
    mixed = replace(counted, per_token=kept, recomputed=recomputed, cache=counted.cache * 3 // 4)
    return mixed, nbytes(policy.parameters()) // 2


def _slices(counted: StepMemory, settings: Settings, window: Window) -> tuple[int, int]:
    """Slices of a step and most tokens of one, as the trainer or a budget cuts it."""
    longest = window.prompt + window.completion
    gib, slices = settings.get("memory.gib"), int(settings.get("trainer.accumulate_grad_batches", 1))
    if gib is not None:
        room = counted.tokens_within(int(gib * 2**30))
        if room <= longest:
            need = (counted.resident + counted.update(longest + 1)) / 2**30
            raise UserError(
                f"a slice of the longest prompt and completion ({longest:,} tokens) needs {need:.3g} GiB",
                where="memory.gib",
                fix="raise it, shorten completions, shard the model, or set model.gradient_checkpointing or model.lora",
            )
        slices = max(1, -(-window.tokens // (room - longest))) if window.tokens > room else 1
    return slices, max(longest, -(-window.tokens // slices))


def _checkpoint_bytes(module: OnPolicyModule) -> int:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(keep_vars=True)}
    module.on_save_checkpoint(checkpoint)
    return nbytes(checkpoint["state_dict"].values())


def _there(parts: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if size}
