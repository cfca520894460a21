"""A policy's weights as a server needs them: named by their content, adapters merged, tied ones once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_sdpo.policies.sharding import base_model, is_sharded, whole

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 2**22


@torch.no_grad()
def fingerprint(policy: Any) -> str:
    """A name for the weights that changes with any bit of them; equal weights have equal names in any process.

    All weights are read once. All processes of a sharded policy have to ask.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = layer.bias.data.add_(1e-3)
        >>> fingerprint(layer) == before
        False
    """
    sums = []
    for number, (_, parameter) in enumerate(_acting(policy)):
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()
        bits = local.contiguous().view(_INTEGERS[local.element_size()]).flatten()
        for piece in bits.split(_PIECE):
            wide = piece.long()
            # Not linear, or changes of opposite sign cancel. Sums wrap around, so that order and division among
            # processes do not matter; odd factors set tensors apart.
            sums.append((wide * (2 * wide + 1)).sum() * (2 * number + 1))
    total = torch.stack(sums).sum()
    if is_sharded(policy):
        torch.distributed.all_reduce(total)
    return f"{int(total) % 2**64:016x}"


@torch.no_grad()
def acting_state(policy: Any, *, keep: bool = True) -> dict[str, Tensor]:
    """The weights as they act, on the CPU, under the names of the model without adapters.

    All processes of a sharded policy have to ask.

    Args:
        policy: A Transformers model, bare or wrapped by PEFT with low-rank adapters.
        keep: ``False`` takes part in gathering and returns nothing.
    """
    root = base_model(policy)
    adapted = {f"{name}.base_layer.weight": layer for name, layer in root.named_modules() if hasattr(layer, "lora_A")}
    state: dict[str, Tensor] = {}
    for name, parameter in _acting(root):
        if ".lora_" in name:
            continue
        value = whole(parameter.detach())
        if name in adapted:
            value = value + _update(adapted[name]).to(value.dtype)
        if keep:
            state[name.replace(".base_layer.", ".")] = value.cpu()
    buffers = {name: whole(b.detach()).cpu() for name, b in root.named_buffers() if name in root.state_dict()}
    return {**state, **buffers} if keep else {}


def moved_by_one(policy: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same model with every token's number one higher: what it predicts for moved tokens is what it did before."""
    root = base_model(policy)
    layers = [root.get_input_embeddings(), root.get_output_embeddings()]
    moved = {id(p) for layer in layers if layer is not None for p in layer.parameters()}
    names = {name for name, p in root.named_parameters() if id(p) in moved}
    return {name: tensor.roll(1, 0) if name in names else tensor for name, tensor in state.items()}


def _acting(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters without those of adapters that are switched off, a teacher's for one."""
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            prefix, _, rest = name.partition(".lora_")
            if rest.split(".")[1] not in policy.get_submodule(prefix).active_adapters:
                continue
        yield name, parameter


def _update(layer: Any) -> Tensor:
    total: Any = 0.0
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            a, b = (whole(part[adapter].weight.detach()).float() for part in (layer.lora_A, layer.lora_B))
            total = total + layer.scaling[adapter] * (b @ a)
    return total.T if getattr(layer, "fan_in_fan_out", False) else total  # type: ignore[no-any-return]
