"""The weights a module trains, as they act: adapters merged, tied weights once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.func import functional_call

from lit_sdpo.errors import UserError

Lookup = Callable[[str], Tensor]


@runtime_checkable
class AdaptedLinear(Protocol):
    """A layer that adds a low-rank update to its frozen weight, as litgpt's ``LoRALinear`` and ``LoRAQKVLinear`` do.

    Attributes:
        linear: The layer below, with the frozen ``weight``.
    """

    linear: nn.Linear

    def get_lora_AB(self) -> Tensor:  # noqa: N802
        """The update from the layer's parameters, in the shape of the weight, scaled."""


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

    A layer with a low-rank adapter gives its merged weight :math:`W + s B A`. Two kinds are known, by what they have:
    PEFT's (``lora_A``, ``lora_B``, ``scaling``, ``base_layer``), of the active adapters, and an :class:`AdaptedLinear`,
    as litgpt's are. Adapters of another kind give their parameters as they stand.
    """
    trained = trained_parameters(module)
    merged: set[str] = set()
    for prefix, layer in module.named_modules():
        weight = _merged(prefix, layer, trained) or _added(prefix, layer, trained)
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


def _added(prefix: str, layer: nn.Module, trained: Mapping[str, nn.Parameter]) -> TrainedWeight | None:
    if not isinstance(layer, AdaptedLinear):
        return None
    dot, base = f"{prefix}." if prefix else "", layer.linear.weight
    # The layer's own weight may be trained beside its adapter.
    own = [name for name, _ in layer.named_parameters() if f"{dot}{name}" in trained and not name.endswith("bias")]
    if "linear.weight" in own or not base.is_floating_point():
        return None
    update = _Update(layer)

    def value(get: Lookup) -> Tensor:
        values = {f"layer.{name}": get(f"{dot}{name}") for name in own}
        added: Tensor = functional_call(update, values, ())
        return base.detach().float().to(added.device) + added.float()

    return TrainedWeight(f"{dot}weight", tuple(f"{dot}{name}" for name in own), value) if own else None


class _Update(nn.Module):
    """What a layer's adapter adds to its weight, as a module, so that it can be asked with other parameters."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.get_lora_AB()  # type: ignore[operator]


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
