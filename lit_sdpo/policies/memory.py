"""What a training step needs in memory, counted before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_sdpo.functional.logprobs import default_chunk_size
from lit_sdpo.policies.attention import attending
from lit_sdpo.policies.masters import is_rounded
from lit_sdpo.policies.scoring import base_model, decoder, head
from lit_sdpo.policies.sharding import layers_of, undisturbed

PROBE_TOKENS = 64
"""Tokens of the forward pass that is counted."""

CHUNK_COPIES = 4
"""Tensors of a chunk's logits that live at once in the heaviest loss, the divergence over the whole vocabulary."""

GATHERED_LAYERS = 2
"""Layers that FSDP2 has whole at a time: the one that computes and the next."""

UNCOUNTABLE = (RuntimeError, AttributeError, TypeError)
"""What :func:`step_memory` raises of a model that it cannot count."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step needs on each process.

    Attributes:
        weights: Of the policy.
        copies: Of teachers, bases and anchors beside it.
        gradients: Of the trained parameters; they are dropped after each optimizer step.
        optimizer: Two averages per trained parameter, as AdamW keeps them, in its dtype or that of its master.
        logits: Of one token, in all the copies that the heaviest loss makes.
        chunk: Tokens whose logits exist at once.
        head_gradient: Where the head's gradient is added up, in float32.
        cache: Keys and values of one token of a rollout.
        per_token: Activations that the backward pass needs, per token of a slice.
        recomputed: Activations of one layer per token, once more under gradient checkpointing.
        gathered: Weights that are whole at a time in an update, of divided ones: some layers and what lies outside.
        whole: All weights, gathered for the rollouts, of divided ones.
        masters: Of float32 masters of weights that are stored in less.
        stepped: Gradients as the optimizer's step takes them, in float32 where there are masters.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    logits: int
    chunk: int
    head_gradient: int
    cache: int
    per_token: int
    recomputed: int = 0
    gathered: int = 0
    whole: int = 0
    masters: int = 0
    stepped: int = 0

    @property
    def resident(self) -> int:
        """What is there throughout."""
        return self.weights + self.copies + self.optimizer + self.masters

    def update(self, tokens: int, slices: int = 2) -> int:
        """Of the forward and backward pass over a slice of ``tokens``, beside what is resident.

        The gradients of earlier slices lie beside all that a slice needs; those of a step's only slice take the place
        of its activations, but for the layer that is recomputed last. The optimizer's step follows, with the gradients
        alone.
        """
        recomputed = tokens * self.recomputed
        needed = min(self.chunk, tokens) * self.logits + tokens * self.per_token + recomputed
        needed = max(needed, self.gradients + recomputed) if slices == 1 else needed + self.gradients
        return max(self.gathered + self.head_gradient + needed, self.stepped)

    def rollouts(self, tokens: int) -> int:
        """Of rollouts that hold the keys and values of ``tokens``, beside what is resident."""
        return self.whole + tokens * self.cache

    def tokens_within(self, budget: int) -> int:
        """Most tokens of a slice with which a step stays within ``budget`` bytes; 0 if none does."""
        left = budget - self.resident - self.gradients - self.gathered - self.head_gradient
        few = left // (self.logits + self.per_token + self.recomputed)
        many = (left - self.chunk * self.logits) // (self.per_token + self.recomputed)
        return max(0, min(few, self.chunk), many) if self.resident + self.stepped <= budget else 0


def step_memory(module: nn.Module, policy: PreTrainedModel, shards: int = 1, masters: bool = False) -> StepMemory:
    """Count what a step of ``module`` needs; nothing is allocated, nothing runs on the device, no process is asked.

    Activations are those of the policy's own dtype; under mixed precision they are smaller.

    Args:
        module: The method, with its teacher and other copies.
        policy: The model in training, one of its submodules.
        shards: Processes among which everything is divided, or is going to be.
        masters: The optimizer keeps float32 masters of weights that are stored in less.
    """
    own = {id(p) for p in policy.parameters()}
    weights = nbytes(policy.parameters())
    gradients = nbytes(p for p in policy.parameters() if p.requires_grad)
    averages, kept = optimizer_bytes(policy, masters)
    matrix: Any = head(policy).weight
    per_token, recomputed = activation_bytes(policy)
    return StepMemory(
        weights=weights // shards,
        copies=nbytes(p for p in module.parameters() if id(p) not in own) // shards,
        gradients=gradients // shards,
        optimizer=averages // shards,
        logits=CHUNK_COPIES * 4 * len(matrix),
        chunk=default_chunk_size(len(matrix), matrix.device),
        head_gradient=4 * matrix.numel() if matrix.requires_grad else 0,
        cache=_cache_bytes(policy),
        per_token=per_token,
        recomputed=recomputed,
        gathered=_gathered_bytes(policy) if shards > 1 else 0,
        whole=weights if shards > 1 else 0,
        masters=kept // shards,
        stepped=averages // 2 // shards,
    )


def optimizer_bytes(policy: nn.Module, masters: bool = False) -> tuple[int, int]:
    """Bytes of two averages of each trained parameter, as AdamW keeps them, and of the float32 masters.

    Args:
        policy: The model in training.
        masters: There are masters of weights that are stored in less than float32; the averages are float32 then.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    kept = [4 * p.numel() if masters and is_rounded(p) else 0 for p in trained]
    return 2 * sum(m or p.numel() * p.element_size() for m, p in zip(kept, trained, strict=True)), sum(kept)


def activation_bytes(policy: PreTrainedModel) -> tuple[int, int]:
    """Bytes per token that a forward pass keeps for its backward pass, and those of the layer that is recomputed.

    Counted in a forward pass over tensors without storage.
    """
    layers = policy.config.get_text_config().num_hidden_layers
    checkpointed: list[Any] = [m for m in policy.modules() if getattr(m, "gradient_checkpointing", False)]
    try:
        for module in checkpointed:
            module.gradient_checkpointing = False
        kept = _saved(policy, 2 * PROBE_TOKENS) - _saved(policy, PROBE_TOKENS)
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True
    per_token = kept // PROBE_TOKENS
    if not checkpointed:
        return per_token, 0
    width = policy.config.get_text_config().hidden_size * next(policy.parameters()).element_size()
    return layers * width, per_token // layers


def _gathered_bytes(policy: PreTrainedModel) -> int:
    layers = sorted(nbytes(layer.parameters()) for layer in layers_of(base_model(policy)))
    return nbytes(policy.parameters()) - sum(layers) + sum(layers[-GATHERED_LAYERS:])


def _cache_bytes(policy: PreTrainedModel) -> int:
    config = policy.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers * heads * size) * policy.dtype.itemsize


def _saved(policy: PreTrainedModel, tokens: int) -> int:
    part = decoder(policy)
    state = {
        # Of divided weights the whole size, as a plain tensor.
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta").requires_grad_(tensor.requires_grad)
        for named in (part.named_parameters, part.named_buffers)
        for name, tensor in named()
    }
    known = {_storage(tensor): 0 for tensor in state.values()}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        known.setdefault(_storage(tensor), tensor.untyped_storage().nbytes())
        alive.append(tensor)  # or another tensor may get the same storage
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    with (
        torch.enable_grad(),
        undisturbed(policy),
        torch.compiler.set_stance("force_eager"),
        attending(base_model(policy), _CountedAttention()),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        torch.func.functional_call(part, state, (), {"input_ids": ids, "position_ids": ids, "use_cache": False})
    return sum(known.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each of which counts once."""
    return sum(x.numel() * x.element_size() for x in {id(x): x for x in tensors}.values())


class _CountedAttention:
    """Keeps what fused attention keeps: queries, keys, values and the output."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        apply: Callable[..., Tensor] = _Kept.apply
        return apply(query, key, value).transpose(1, 2)


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out
