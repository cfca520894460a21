"""The state of the global random generators, in plain values."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Where the generators of Python, NumPy, torch and every accelerator of this process stand.

    Example:
        >>> before = random_state()
        >>> drawn = random.random(), np.random.rand(), torch.rand(())
        >>> set_random_state(before)
        >>> drawn == (random.random(), np.random.rand(), torch.rand(()))
        True
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators where they stood."""
    random.setstate(_tuples(state["python"]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def of_all_ranks(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """The states of all processes, by rank; all of them have to call it."""
    own = random_state()
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    states: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, own)
    return states


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value
