"""The parsed configuration of a run that is not built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonargparse
import torch
from jsonargparse import Namespace

from lit_sdpo.callbacks.memory import AUTOCAST
from lit_sdpo.cli import run
from lit_sdpo.dry_run import ParseOnly
from lit_sdpo.errors import UserError
from lit_sdpo.messages import explain_building
from lit_sdpo.policies.memory import Placement

ONE_DEVICE = ("auto", "single_device")


@dataclass(frozen=True)
class Settings:
    """A configuration of ``fit``, key by key.

    Attributes:
        config: What was parsed, defaults included.
        parser: What parsed it.
    """

    config: Namespace
    parser: jsonargparse.ArgumentParser

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key; ``default`` where there is none."""
        found = self.config.get(key)
        return default if found is None else found

    def build(self, key: str, value: Namespace) -> Any:
        """The objects of one top-level key, from other values than the configuration's.

        Raises:
            UserError: A value that a constructor refuses.
        """
        try:
            return self.parser.instantiate(Namespace(**{key: value}))[key]
        except Exception as error:
            keys = (name.replace(".init_args", "") for name in self.config.keys())  # noqa: SIM118
            if (mistake := explain_building(error, keys)) is None:
                raise
            raise mistake from error


@dataclass(frozen=True)
class Devices:
    """How the model is spread over processes.

    Attributes:
        strategy: ``one device``, ``DDP`` or ``FSDP2``.
        count: Processes, one per device.
        shards: Devices that share one copy of everything.
        bucket_views: Whether DDP's gradients are its buckets.
        kind: Kind of device, such as ``cpu``.
        notes: What was supposed.
    """

    strategy: str
    count: int
    shards: int = 1
    bucket_views: bool = False
    kind: str = "cpu"
    notes: tuple[str, ...] = field(default=())


def parse(arguments: Sequence[str]) -> Settings:
    """Parse the arguments of ``fit``.

    Args:
        arguments: ``--config FILE`` and overrides.

    Raises:
        UserError: A mistake in them.
    """
    made = run(["fit", *arguments], ParseOnly)
    return Settings(made.config["fit"], made._parser("fit"))


def devices_of(settings: Settings) -> Devices:
    """How the trainer's flags spread the model.

    Raises:
        UserError: The strategy is none of those that the package trains with.
    """
    each, notes = settings.get("trainer.devices", "auto"), []
    if isinstance(each, list | tuple):
        each = len(each)
    if isinstance(each, str) and each.strip("[]").replace(",", "").strip().isdecimal() and "," in each:
        each = len([part for part in each.strip("[]").split(",") if part.strip()])
    try:
        each = int(each)
    except ValueError:
        each = -1
    if each < 1:
        each = 1
        notes.append("trainer.devices is not a number: counted as 1")
    kind = _kind(str(settings.get("trainer.accelerator", "auto")))
    if settings.get("trainer.accelerator", "auto") == "auto":
        notes.append(f"trainer.accelerator is auto: counted for this machine's, {kind}")
    nodes = int(settings.get("trainer.num_nodes", 1))
    count = each * nodes
    given = settings.get("trainer.strategy", "auto")
    name, options = (given, {}) if isinstance(given, str) else (given.class_path, given.get("init_args") or {})
    name = name.rpartition(".")[2]
    if name in ONE_DEVICE or name == "SingleDeviceStrategy":
        return Devices("one device" if count == 1 else "DDP", count, kind=kind, notes=tuple(notes))
    if name.startswith("ddp") or name == "DDPStrategy":
        views = bool(options.get("gradient_as_bucket_view"))
        return Devices("DDP", count, bucket_views=views, kind=kind, notes=tuple(notes))
    if name == "ModelParallelStrategy":
        return Devices("FSDP2", count, _shards(options, each, nodes), kind=kind, notes=tuple(notes))
    raise UserError(
        f"the memory of strategy {name!r} is not known here",
        where="trainer.strategy",
        fix="use auto, ddp or ModelParallelStrategy (FSDP2)",
    )


def placement_of(settings: Settings, devices: Devices) -> Placement:
    """Where a process computes, as the trainer's flags say."""
    return Placement(
        device=devices.kind,
        shards=devices.shards,
        buckets=devices.strategy == "DDP",
        bucket_views=devices.bucket_views,
        autocast=AUTOCAST.get(str(settings.get("trainer.precision"))),
    )


def _kind(accelerator: str) -> str:
    """The device that an accelerator's name means."""
    if accelerator != "auto":
        return {"gpu": "cuda"}.get(accelerator, accelerator)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def _shards(options: Any, each: int, nodes: int) -> int:
    """Devices that share one copy; Lightning's ``auto`` is one share per node, the rest tensor-parallel."""
    data, tensor = options.get("data_parallel_size", "auto"), options.get("tensor_parallel_size", "auto")
    data, tensor = nodes if data == "auto" else int(data), each if tensor == "auto" else int(tensor)
    if tensor != 1 or data != each * nodes:
        raise UserError(
            f"data_parallel_size {data} and tensor_parallel_size {tensor} on {each * nodes} devices",
            where="trainer.strategy",
            fix=f"the package shards data-parallel only: set them to {each * nodes} and 1",
        )
    return data
