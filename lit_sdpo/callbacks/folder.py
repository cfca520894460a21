"""Where a run's files go, and how they are written without ever being half there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import lightning.pytorch as pl


def run_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of this run, the same on every rank.

    It is the first logger's folder (``trainer.log_dir``), or ``default_root_dir`` without a logger or with one that
    has no folder. ``fast_dev_run`` leaves no files behind, so there it is ``None``.

    All ranks must call it together: rank zero's answer is broadcast.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return Path(trainer.log_dir or trainer.default_root_dir)


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one move; a reader sees the old file or the new one, never a part.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomically(folder / "runs" / "note.txt", "done")
        >>> (folder / "runs" / "note.txt").read_text()
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp makes private files; a report is for everybody
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
