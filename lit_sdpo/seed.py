"""The run's seed."""

from __future__ import annotations

import os


def run_seed(seed: int | None) -> int:
    """The given seed, or that of ``seed_everything`` where none is given, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
