"""Checkpoints that do not hold what was written: how that shows, and what takes their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from lit_sdpo.checkpoints.manifest import Contents, Manifest, in_order
from lit_sdpo.errors import UserError

DAMAGED = ".corrupt"

Found = TypeVar("Found")


class DamagedError(Exception):
    """A checkpoint that does not hold what was written."""


def compare(found: Contents, manifest: Manifest) -> None:
    """Hold what is there against what was written.

    Raises:
        DamagedError: It differs, with the difference in words.
    """
    if found in manifest.accepted:
        return
    newest = manifest.accepted[-1]
    if newest.files:
        raise DamagedError(_difference(dict(found.files), dict(newest.files)))
    sizes = sorted({contents.size for contents in manifest.accepted})
    if found.size not in sizes:
        raise DamagedError(f"it has {found.size} bytes instead of {' or '.join(map(str, sizes))}")
    raise DamagedError("its SHA-256 is not that of its manifest")


def written_before(wanted: Path) -> list[Path]:
    """The checkpoints beside it that may take its place, the newest first."""
    manifest = Manifest.of(wanted)
    ordered = [path for path in in_order(wanted.parent) if path != wanted]
    if manifest is None:
        return ordered
    return [path for path in ordered if (m := Manifest.of(path)) is None or m.number < manifest.number]


def newest_good(wanted: Path, read: Callable[[Path], Found]) -> tuple[Path, Found]:
    """The checkpoint, or the newest good one that was written before it; damaged ones are renamed.

    Args:
        wanted: The checkpoint.
        read: Reads or checks one; raises :class:`DamagedError` where it does not hold what was written.

    Returns:
        Its path, and what was read.

    Raises:
        UserError: There is none.
    """
    for candidate in [wanted, *written_before(wanted)]:
        try:
            found = read(candidate)
        except DamagedError as error:
            set_aside(candidate, str(error))
            continue
        if candidate != wanted:
            rank_zero_info(f"Going on from {candidate} instead.")
        return candidate, found
    raise UserError(
        "the checkpoint is damaged, and there is no good one in its folder that was written before it",
        where=str(wanted),
        fix="resume from another checkpoint, or begin again",
    )


def warn_not_compared(path: Path) -> None:
    """Say that nobody knows what was written."""
    rank_zero_warn(f"{path} has no manifest beside it: what it holds could not be compared with what was written.")


@rank_zero_only
def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged checkpoint, unless nobody knows whose it is, and say so."""
    aside = path.with_name(path.name + DAMAGED)
    if Manifest.of(path) is None:
        rank_zero_warn(f"{path} is damaged or no checkpoint: {reason}.")
    elif path.exists():
        if aside.is_dir():
            shutil.rmtree(aside)
        os.replace(path, aside)
        rank_zero_warn(f"The checkpoint {path} is damaged: {reason}. It is now {aside.name}.")


def _difference(found: dict[str, Contents], written: dict[str, Contents]) -> str:
    for name, contents in written.items():
        if name not in found:
            return f"{name} is missing"
        if found[name].size != contents.size:
            return f"{name} has {found[name].size} bytes instead of {contents.size}"
        if found[name] != contents:
            return f"the SHA-256 of {name} is not that of its manifest"
    return f"it holds {next(name for name in found if name not in written)}, which was not written with it"
