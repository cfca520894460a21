"""What the objects of a run were made with, in plain values: what tells runs apart that have no configuration file."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping, Sized
from enum import Enum
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from lit_sdpo.lightning_names import both

#: The key of an object's class among its settings.
CLASS = "class"
#: How far objects within objects are followed, and how many values of one are written down.
DEEPEST, LONGEST = 8, 200
#: Parts of a module that hold weights rather than settings.
WEIGHTS = ("policy", "weights", "start", "base")
#: Arguments that are compared by what they make: see :mod:`lit_sdpo.checkpoints.rates` and the fingerprints.
MADE = ("optimizer", "scheduler", "tokenizer", "model_name")


def settings(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """What decides training, read from the objects: method, rollouts, precision and clipping.

    An object's settings are those of its attributes that have the name of an argument of its constructor, and the
    hyper-parameters that a module has saved.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    rollout = next((callback for callback in callbacks if hasattr(callback, "sampling")), None)
    algorithm = trainer.gradient_clip_algorithm
    return {
        "model": settings_of(module),
        "rollout": settings_of(rollout),
        "trainer": {
            "precision": str(trainer.precision),
            "gradient_clip_val": trainer.gradient_clip_val,
            "gradient_clip_algorithm": None if algorithm is None else str(algorithm.value),
        },
    }


def settings_of(thing: Any) -> Any:
    """Plain values as they are; of functions and classes the name, of objects the class and what it was made with.

    Example:
        >>> from lit_sdpo.rollouts.types import Sampling
        >>> settings_of(Sampling(max_new_tokens=8))["max_new_tokens"]
        8
    """
    return _plain(thing, DEEPEST)


def _plain(thing: Any, depth: int) -> Any:
    if isinstance(thing, Enum):
        return _plain(thing.value, depth)
    if isinstance(thing, np.generic):
        return _plain(thing.item(), depth)
    if thing is None or isinstance(thing, bool):
        return thing
    for kind in (int, float, str):  # of NumPy's numbers too, which a checkpoint could not be read with
        if isinstance(thing, kind):
            return kind(thing)
    if isinstance(thing, Path | torch.dtype):
        return str(thing)
    if isinstance(thing, type) or inspect.isroutine(thing):
        return _name(thing)
    if depth == 0 or (isinstance(thing, Sized) and len(thing) > LONGEST):
        return f"{_name(type(thing))} of {len(thing)}" if isinstance(thing, Sized) else _name(type(thing))
    if isinstance(thing, Mapping):
        return {str(name): _plain(value, depth - 1) for name, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_plain(value, depth - 1) for value in thing]
    if isinstance(thing, functools.partial):
        return {CLASS: _name(thing.func), **{name: _plain(x, depth - 1) for name, x in thing.keywords.items()}}
    return _of_object(thing, depth - 1)


def _of_object(thing: Any, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {CLASS: _name(type(thing))}
    for name in _arguments(type(thing)):
        value = vars(thing).get(name, _MISSING) if hasattr(thing, "__dict__") else getattr(thing, name, _MISSING)
        if value is not _MISSING and name not in MADE and not isinstance(value, torch.Tensor | nn.Module):
            found[name] = _plain(value, depth)
    if isinstance(thing, both(pl.LightningModule)):
        found |= {name: _plain(value, depth) for name, value in dict(thing.hparams).items()}
    if isinstance(thing, nn.Module):
        parts = ((name, part) for name, part in thing.named_children() if name not in WEIGHTS and name not in found)
        if depth and (isinstance(thing, both(pl.LightningModule)) or _is_ours(thing)):
            found |= {name: _of_object(part, depth - 1) for name, part in parts if _is_ours(part)}
    return found


_MISSING = object()


def _is_ours(part: nn.Module) -> bool:
    """Whether it says how to train: containers, and parts with an argument that is kept; layers say nothing more."""
    return isinstance(part, nn.ModuleDict | nn.ModuleList) or not type(part).__module__.startswith(
        ("torch.", "transformers.", "peft.")
    )


def _arguments(owner: type) -> list[str]:
    names: list[str] = []
    for base in owner.__mro__[:-1]:
        if "__init__" in vars(base):
            with contextlib.suppress(TypeError, ValueError):  # what is written in C may not say
                names += list(inspect.signature(base.__init__).parameters)[1:]  # type: ignore[misc]
    return list(dict.fromkeys(names))


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
