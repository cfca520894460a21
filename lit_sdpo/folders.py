"""Where a run's files go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import lightning.pytorch as pl

#: Between a logger's own folder and the runs in it, where it has no name; Lightning's loggers do the same.
UNNAMED = "lightning_logs"

#: Folders of runs whose logger gives them none.
_taken: WeakKeyDictionary[pl.Trainer, Path] = WeakKeyDictionary()


def run_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of this run, the same on every rank and for as long as the trainer lives; no other run has it.

    It is the first logger's own folder (``logger.log_dir``). A logger without one, such as those of W&B and MLflow, or
    no logger: ``<save_dir>/<name>/version_<n>`` with the first number that is free, where ``save_dir`` is the logger's
    or ``default_root_dir``; the folder is made at the first call. ``fast_dev_run`` leaves no files behind, so there it
    is ``None``.

    All ranks must call it together: rank zero's answer is broadcast.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if (own := folder_of_logger(trainer)) is not None:
        return trainer.strategy.broadcast(own)
    if trainer not in _taken:
        made = _take_next(runs_root(trainer)) if trainer.is_global_zero else None
        _taken[trainer] = trainer.strategy.broadcast(made)  # type: ignore[assignment]
    return _taken[trainer]


def use_folder(trainer: pl.Trainer, folder: Path) -> None:
    """Go on in the folder of another run, where the logger does not decide it."""
    _taken[trainer] = folder


def folder_of_logger(trainer: pl.Trainer) -> Path | None:
    """The folder that the first logger has for this run alone; ``None`` of loggers without one."""
    folder = getattr(trainer.logger, "log_dir", None)
    return None if folder is None else Path(folder)


def runs_root(trainer: pl.Trainer) -> Path:
    """The folder that holds ``version_<n>`` of each run."""
    logger: Any = trainer.logger
    if (root := getattr(logger, "root_dir", None)) is not None:
        return Path(root)
    place = Path(getattr(logger, "save_dir", None) or trainer.default_root_dir)
    name = re.sub(r"[^\w.-]+", "_", str(getattr(logger, "name", None) or "")).strip(".")
    return place / (name or UNNAMED)


def versions(root: Path) -> dict[int, Path]:
    """The folders ``version_<n>`` in a folder, by their number, the latest first."""
    found = {int(m[1]): path for path in root.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", path.name))}
    return dict(sorted(found.items(), reverse=True))


def _take_next(root: Path) -> Path:
    number = max(versions(root), default=-1) + 1
    while True:
        try:
            (root / f"version_{number}").mkdir(parents=True)
        except FileExistsError:  # another run was faster
            number += 1
        else:
            return root / f"version_{number}"
