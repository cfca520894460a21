"""How files are written without ever being half there, and old ones kept."""

from __future__ import annotations

import os
from pathlib import Path


def set_aside(path: Path) -> None:
    """Give a file the first number that is free, ``config.yaml`` to ``config_1.yaml``; its name is free then."""
    number = 1
    while (kept := path.with_stem(f"{path.stem}_{number}")).exists():
        number += 1
    path.rename(kept)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` in one move; a reader sees the old file or the new one, never a part.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomically(folder / "runs" / "note.txt", "done")
        >>> (folder / "runs" / "note.txt").read_text()
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")  # who finds it can tell whether we still live
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
