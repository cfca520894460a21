"""``ckpt_path: last``: the newest checkpoint of the latest run, and that run's folder to go on in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.checkpoints.manifest import FOLDER, in_order
from lit_sdpo.errors import UserError
from lit_sdpo.folders import folder_of_logger, runs_root, use_folder, versions

#: What a run writes into its folder before anything else; what is left without it has never begun.
RECORD = "config.yaml"
#: Why a run was refused that would have begun in a folder.
REFUSED = "refused.txt"


def last_checkpoint(trainer: pl.Trainer, *, go_on: bool) -> Path | None:
    """The newest checkpoint of the latest run, ``None`` and a message if there is none.

    A run that would begin in a new folder is set to the latest one's.

    Args:
        trainer: The trainer of the run, before it starts.
        go_on: Stay in that folder if it has a checkpoint, rather than begin the next one.
    """
    logger: Any = trainer.logger
    numbers_itself = getattr(logger, "_version", 0) is None  # until it is asked for its folder
    if not numbers_itself and (own := folder_of_logger(trainer)) is not None:
        return _newest(own)
    begun = {n: path for n, path in versions(runs_root(trainer)).items() if _has_begun(path)}
    if not begun:
        return _newest(runs_root(trainer))
    number, folder = next(iter(begun.items()))
    found = _newest(folder)
    if found is not None and go_on:
        if numbers_itself:
            logger._version = number
        use_folder(trainer, folder)
    return found


def check_unused(trainer: pl.Trainer) -> None:
    """Whether a run that begins at the beginning has a folder of its own.

    Raises:
        UserError: Its logger was given the folder of another run.
    """
    if getattr(trainer.logger, "_version", 0) is None:  # it will take a new one
        return
    folder = folder_of_logger(trainer)
    if folder is not None and in_order(folder / FOLDER):
        raise UserError(
            "the folder holds the checkpoints of another run, and this one begins at the beginning",
            where=str(folder),
            fix="go on with it, --ckpt_path last, or give this run a folder of its own",
        )


def latest_version(folder: Path) -> int | None:
    """The highest number of a ``version_<n>`` in a folder."""
    return next(iter(versions(folder)), None)


def _newest(folder: Path) -> Path | None:
    found = in_order(folder / FOLDER)
    if not found:
        rank_zero_info(f"No checkpoint in {folder} yet: this run begins at the beginning.")
    return found[0] if found else None


def _has_begun(folder: Path) -> bool:
    return not (folder / REFUSED).exists() and any((folder / name).exists() for name in (RECORD, FOLDER))
