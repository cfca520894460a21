"""The weights a module trains, as they act: adapters merged, tied weights once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from lit_sdpo.errors import UserError

Lookup = Callable[[str], Tensor]


@dataclass(frozen=True)
class TrainedWeight:
    """One weight of a module, computed from the parameters it is made of.

    Attributes:
        name: As in ``named_parameters``; of an adapted layer the layer's own weight.
        sources: Names of the trained parameters in it.
        value: The weight from a function that gives the parameter of a name.
    """

    name: str
    sources: tuple[str, ...]
    value: Callable[[Lookup], Tensor]

    @property
    def kind(self) -> str:
        """Type of the matrix, such as ``q_proj``: the last part of the name that is not a number or ``weight``."""
        parts = [part for part in self.name.split(".") if not part.isdigit() and part not in ("weight", "base_layer")]
        return parts[-1] if parts else self.name

    @property
    def layer(self) -> int | None:
        """The last number in the name."""
        numbers = [int(part) for part in self.name.split(".") if part.isdigit()]
        return numbers[-1] if numbers else None


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that take gradients, tied ones once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def trained_weights(module: nn.Module) -> Iterator[TrainedWeight]:
    r"""Each weight that training changes.

    A layer with a low-rank adapter gives its merged weight :math:`W + s B A`, of the active adapter. PEFT's layers are
    known by what they have (``lora_A``, ``lora_B``, ``scaling``, ``base_layer``); adapters of another kind give their
    parameters as they stand.
    """
    trained = trained_parameters(module)
    merged: set[str] = set()
    for prefix, layer in module.named_modules():
        weight = _merged(prefix, layer, trained)
        if weight is not None:
            merged.update(weight.sources)
            yield weight
    for name in trained:
        if name not in merged:
            yield TrainedWeight(name, (name,), lambda get, name=name: get(name))  # type: ignore[misc]


def _merged(prefix: str, layer: Any, trained: Mapping[str, nn.Parameter]) -> TrainedWeight | None:
    if not all(hasattr(layer, name) for name in ("lora_A", "lora_B", "scaling", "base_layer", "active_adapters")):
        return None
    dot = f"{prefix}." if prefix else ""
    base: Any = getattr(layer.base_layer, "weight", None)
    adapters = [
        adapter
        for adapter in layer.active_adapters
        if f"{dot}lora_A.{adapter}.weight" in trained and not getattr(layer, "use_dora", {}).get(adapter)
    ]
    if base is None or not base.is_floating_point() or not adapters:
        return None
    pairs = {adapter: (f"{dot}lora_A.{adapter}.weight", f"{dot}lora_B.{adapter}.weight") for adapter in adapters}

    def value(get: Lookup) -> Tensor:
        weight: Tensor = base.detach().float()
        for adapter, (a, b) in pairs.items():
            update = layer.scaling[adapter] * (get(b).float().flatten(1) @ get(a).float().flatten(1))
            weight = weight + (update.T if getattr(layer, "fan_in_fan_out", False) else update).view_as(weight)
        return weight

    return TrainedWeight(f"{dot}weight", tuple(name for pair in pairs.values() for name in pair), value)


def check_whole(
    module: pl.LightningModule,
    where: str = "ParameterDrift",
    why: str = "so no process can decompose it",
    instead: str = ", or measure saved checkpoints",
) -> None:
    """Refuse parameters of which this process holds a part only.

    Args:
        module: Any module.
        where: Who needs them whole.
        why: What cannot be done.
        instead: What else a user can do.

    Raises:
        UserError: A parameter is sharded.
    """
    for name, p in module.named_parameters():
        if any(hasattr(p, mark) for mark in ("full_tensor", "_is_flat_param", "ds_id")):
            raise UserError(
                f"parameter {name!r} is sharded over processes, {why}",
                where=where,
                fix=f"use a strategy that keeps whole parameters (auto, ddp){instead}",
            )
