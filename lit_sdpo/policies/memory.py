"""What a process needs in memory for a step, counted before it runs: one formula for ``plan``, ``doctor`` and ``fit``.

Resident throughout are weights, copies of them and the optimizer. Rollouts (keys and values) and the update (gradients,
activations, a chunk of logits) follow each other, so the peak is what is resident and the larger of the two. What the
program itself, communication and an allocator's rounding take comes on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_sdpo.errors import UserError
from lit_sdpo.functional.logprobs import default_chunk_size
from lit_sdpo.policies.activations import Moment, Shape, moments
from lit_sdpo.policies.attention import UnsupportedModelError, obstacle
from lit_sdpo.policies.copies import FixedWeights
from lit_sdpo.policies.masters import is_rounded
from lit_sdpo.policies.scoring import base_model, head
from lit_sdpo.policies.sharding import layers_of
from lit_sdpo.units import GIB, size

CHUNK_COPIES = 4
"""Tensors of a chunk's logits that live at once, of a method of which it cannot be told."""

SAMPLER_COPIES = 3
"""Tensors of a row's logits while a token is drawn: the model's, float32 and the sampler's weights."""

GATHERED_LAYERS = 2
"""Layers that FSDP2 has whole at a time: the one that computes and the next."""

UNCOUNTABLE = (RuntimeError, AttributeError, TypeError, UnsupportedModelError)
"""What :class:`StepCount` raises of a model that it cannot count."""


@runtime_checkable
class CountsLogits(Protocol):
    """A method that knows how many tensors of a chunk's logits its loss makes."""

    def logit_bytes(self, temperature: float) -> int:
        """Bytes of one token's logits, in all the copies that live at once."""


@dataclass(frozen=True)
class Block:
    """Rows that the policy decodes together in this process.

    Attributes:
        prompts: Prompts whose keys and values are held.
        rows: Their completions.
        prompt: Tokens of the longest prompt.
        completion: Most tokens of a completion.
    """

    prompts: int
    rows: int
    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        """Whose keys and values are held."""
        return self.prompts * self.prompt + self.rows * self.completion


@dataclass(frozen=True)
class Window:
    """What a process holds of a step, at most.

    Attributes:
        prompts: Prompts of a step.
        rows: Completions of a step.
        prompt: Tokens of the longest prompt.
        completion: Tokens of the longest completion.
        read: Whether the prompt is the longest of the data; else it is the longest allowed (``max_prompt_tokens``).
        blocks: What the policy decodes at once, in training and in evaluation; none where a server does.
        temperature: Of the losses.
    """

    prompts: int
    rows: int
    prompt: int
    completion: int
    read: bool
    blocks: tuple[Block, ...] = ()
    temperature: float = 1.0

    @property
    def row(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return self.prompt + self.completion

    @property
    def cached(self) -> int:
        """Most tokens whose keys and values are held at once."""
        return max((block.tokens for block in self.blocks), default=0)

    @property
    def decoded(self) -> int:
        """Most rows that are decoded at once."""
        return max((block.rows for block in self.blocks), default=0)

    def slice(self, slices: int) -> tuple[int, int]:
        """Prompts and rows of the largest of some slices, which are cut between rows."""
        rows = -(-self.rows // slices)
        each = max(1, self.rows // max(self.prompts, 1))
        # A slice that does not begin with a group may end in one more.
        prompts = rows // each if rows % each == 0 else (rows - 2) // each + 2
        return min(max(prompts, 1), self.prompts, rows), rows


@dataclass(frozen=True)
class Placement:
    """Where a process computes and what it shares with others.

    Attributes:
        device: Kind of the device, such as ``cpu``.
        shards: Processes among which everything is divided (FSDP2).
        buckets: Whether gradients are sent in buckets (DDP).
        bucket_views: Whether the gradients are these buckets.
        autocast: Dtype of a mixed precision.
    """

    device: str = "cpu"
    shards: int = 1
    buckets: bool = False
    bucket_views: bool = False
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a process needs, by part.

    Attributes:
        resident: What is there throughout.
        rollouts: What generation adds.
        update: What the forward and backward pass over a slice, or the optimizer's step, add.
        window: What was counted.
        slices: Slices that a step is cut into.
    """

    resident: dict[str, int]
    rollouts: dict[str, int]
    update: dict[str, int]
    window: Window
    slices: int

    @property
    def peak(self) -> int:
        """The most at any time."""
        return sum(self.resident.values()) + max(sum(self.rollouts.values()), sum(self.update.values()))

    @property
    def slice_tokens(self) -> int:
        """Tokens of the largest slice, prompts once."""
        prompts, rows = self.window.slice(self.slices)
        return prompts * self.window.prompt + rows * self.window.completion

    @property
    def lengths(self) -> str:
        """What was taken for the longest prompt, in words."""
        window = self.window
        what = "the longest of the data" if window.read else "the longest allowed, as no data were read"
        return f"prompts of {window.prompt:,} tokens ({what}), completions of {window.completion:,}"

    def __str__(self) -> str:
        """All of it in one line."""
        larger = max(self.rollouts, self.update, key=lambda parts: sum(parts.values()))
        phase = (
            "rollouts" if larger is self.rollouts else f"update of {self.slice_tokens:,} tokens (1 of {self.slices})"
        )
        inside = ", ".join(f"{name} {size(count)}" for name, count in larger.items())
        told = ", ".join(f"{name} {size(count)}" for name, count in self.resident.items())
        return f"{size(self.peak)}: {told}; {phase}: {inside}; {self.lengths}"


class StepCount:
    """Counts what steps of a method need. Nothing is allocated, nothing runs on the device, no process is asked.

    Args:
        module: The method, with its teacher and other copies.
        policy: The model in training, one of its submodules.
        window: What a process holds of a step.
        placement: Where it computes.
        masters: The optimizer keeps float32 masters of weights that are stored in less.

    Raises:
        Exception: One of :data:`UNCOUNTABLE`, of a model that cannot be counted.
    """

    def __init__(
        self,
        module: nn.Module,
        policy: PreTrainedModel,
        window: Window,
        placement: Placement = Placement(),
        masters: bool = True,
    ) -> None:
        self.policy, self.window, self.placement = policy, window, placement
        own = {id(p) for p in policy.parameters()}
        shards, vocabulary = placement.shards, len(_matrix(policy))
        self.weights = nbytes(policy.parameters())
        self.gradients = nbytes(_trained(policy)) // shards
        averages, kept = optimizer_bytes(policy, masters)
        self.resident = {
            "weights": self.weights // shards,
            "teacher and other copies": nbytes(p for p in module.parameters() if id(p) not in own) // shards,
            "optimizer": averages // shards,
            "float32 masters": kept // shards,
            "gradients in buckets": self.gradients if placement.buckets else 0,
        }
        # The optimizer takes gradients in float32 where there are masters; AdamW on an accelerator one more of each.
        self.stepped = averages // 2 // shards * (1 if placement.device == "cpu" else 2)
        self.chunk = default_chunk_size(vocabulary, torch.device(placement.device))
        self.logits = CHUNK_COPIES * 4 * vocabulary
        if isinstance(module, CountsLogits):
            with suppress(*UNCOUNTABLE):  # losses that look at numbers
                self.logits = module.logit_bytes(window.temperature)
        scored = any(isinstance(part, FixedWeights) for part in module.modules())
        self.shape = Shape(window.prompt, window.completion, window.row if scored else 0)
        # A model that cannot share prompts among rows gets each row with a prompt of its own.
        self.shared = obstacle(base_model(policy), window.row) is None

    def of(self, slices: int) -> StepMemory:
        """What a step needs that is cut into some slices."""
        prompts, rows = self.window.slice(slices)
        found = (self._parts(moment, slices, prompts, rows) for moment in self._moments(slices))
        update = max(
            (*found, {"gradients in the optimizer's step": self.stepped}), key=lambda parts: sum(parts.values())
        )
        return StepMemory(_there(self.resident), _there(self.rollouts), _there(update), self.window, slices)

    def slices(self, gib: float) -> int:
        """Fewest slices with which updates stay within a budget.

        Args:
            gib: GiB of a process.

        Raises:
            UserError: Not even a slice of one row fits.
        """
        for slices in range(1, self.window.rows + 1):
            memory = self.of(slices)
            need = (sum(memory.resident.values()) + sum(memory.update.values())) / GIB
            if need <= gib:
                return slices
        raise UserError(
            f"a slice of the longest prompt and completion ({self.window.row:,} tokens) needs {need:.3g} GiB",
            where="memory.gib",
            fix="raise it, lower rollout.sampling.max_new_tokens, shard the model, or set model.gradient_checkpointing"
            " or model.lora",
        )

    @cached_property
    def rollouts(self) -> dict[str, int]:
        """What generation adds, by part."""
        window, mixed = self.window, self.placement.autocast is not None
        if not window.blocks:
            return {}
        return {
            "half-precision weights": nbytes(_trained(self.policy)) // 2 if mixed else 0,
            "whole weights, gathered": self.weights if self.placement.shards > 1 else 0,
            "keys and values": window.cached * cache_bytes(self.policy, mixed),
            "logits of a token": SAMPLER_COPIES * 4 * len(_matrix(self.policy)) * window.decoded,
        }

    def _moments(self, slices: int) -> list[Moment]:
        return self._alone if slices == 1 and not self._gradients_elsewhere else self._among_others

    @property
    def _gradients_elsewhere(self) -> bool:
        """In buckets, or divided as soon as they are made."""
        return (self.placement.buckets and self.placement.bucket_views) or self.placement.shards > 1

    @cached_property
    def _alone(self) -> list[Moment]:
        return self._watched(accumulated=False)

    @cached_property
    def _among_others(self) -> list[Moment]:
        return self._watched(accumulated=True)

    def _watched(self, accumulated: bool) -> list[Moment]:
        return moments(self.policy, self.shape, self.placement.autocast, accumulated, self.placement.device == "cpu")

    def _parts(self, moment: Moment, slices: int, prompts: int, rows: int) -> dict[str, int]:
        held = self.gradients if slices > 1 or self._gradients_elsewhere else 0
        if self.placement.buckets and self.placement.bucket_views:
            held = 0
        mixed = " and half-precision weights" if self.placement.autocast is not None else ""
        completions = rows * self.window.completion
        return {
            f"gradients{mixed}": held + max(0, round(moment.fixed)),
            "layers gathered at a time": _gathered_bytes(self.policy) if self.placement.shards > 1 else 0,
            "activations": moment.tokens(prompts if self.shared else rows, rows),
            "logits in chunks": min(self.chunk, completions) * self.logits if moment.at_loss else 0,
        }


def optimizer_bytes(policy: nn.Module, masters: bool = False) -> tuple[int, int]:
    """Bytes of two averages of each trained parameter, as AdamW keeps them, and of the float32 masters.

    Args:
        policy: The model in training.
        masters: There are masters of weights that are stored in less than float32; the averages are float32 then.
    """
    trained = _trained(policy)
    kept = [4 * p.numel() if masters and is_rounded(p) else 0 for p in trained]
    return 2 * sum(m or p.numel() * p.element_size() for m, p in zip(kept, trained, strict=True)), sum(kept)


def checkpoint_bytes(module: Any, policy: nn.Module, masters: bool) -> int:
    """Bytes of a checkpoint: what a module saves of itself, and the optimizer.

    Args:
        module: The Lightning module.
        policy: The model in training.
        masters: See :func:`optimizer_bytes`.
    """
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(keep_vars=True)}
    module.on_save_checkpoint(checkpoint)
    return nbytes(checkpoint["state_dict"].values()) + sum(optimizer_bytes(policy, masters))


def cache_bytes(policy: PreTrainedModel, mixed: bool = False) -> int:
    """Bytes of one token's keys and values; under autocast keys, which are rotated, stay in float32."""
    config = policy.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 3 * policy.dtype.itemsize // 2 if mixed and policy.dtype == torch.float32 else 2 * policy.dtype.itemsize
    return int(config.num_hidden_layers * heads * width) * each


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each of which counts once."""
    return sum(x.numel() * x.element_size() for x in {id(x): x for x in tensors}.values())


def _trained(policy: nn.Module) -> list[Tensor]:
    return [p for p in policy.parameters() if p.requires_grad]


def _matrix(policy: PreTrainedModel) -> Tensor:
    layer: Any = head(policy)
    matrix: Tensor = layer.weight
    return matrix


def _gathered_bytes(policy: PreTrainedModel) -> int:
    layers = sorted(nbytes(layer.parameters()) for layer in layers_of(base_model(policy)))
    return nbytes(policy.parameters()) - sum(layers) + sum(layers[-GATHERED_LAYERS:])


def _there(parts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in parts.items() if count}
