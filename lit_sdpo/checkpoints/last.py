"""``ckpt_path: last``: the newest checkpoint of the latest run, and that run's folder to go on in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.checkpoints.manifest import in_order

FOLDER = "checkpoints"


def last_checkpoint(trainer: pl.Trainer, *, go_on: bool) -> Path | None:
    """The newest checkpoint in the run folder, ``None`` and a message if there is none.

    A logger that would begin a new version is set to its latest one, which is then the run folder.

    Args:
        trainer: The trainer of the run, before it starts.
        go_on: Stay in that version if it has a checkpoint, rather than begin the next one.
    """
    logger: Any = trainer.logger
    version = latest_version(Path(logger.root_dir)) if getattr(logger, "_version", "") is None else None
    if version is not None:
        folder = Path(logger.root_dir) / f"version_{version}"
    else:
        folder = Path(trainer.log_dir or trainer.default_root_dir)
    found = in_order(folder / FOLDER)
    if not found:
        rank_zero_info(f"No checkpoint in {folder} yet: this run begins at the beginning.")
        return None
    if version is not None and go_on:
        logger._version = version
    return found[0]


def latest_version(folder: Path) -> int | None:
    """The highest number of a ``version_<n>`` in a folder."""
    matches = (re.fullmatch(r"version_(\d+)", path.name) for path in folder.glob("version_*"))
    return max((int(match[1]) for match in matches if match), default=None)
