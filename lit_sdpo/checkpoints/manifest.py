"""The manifest of a checkpoint: which bytes are right, and in which order the checkpoints of a folder were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from lit_sdpo.files import write_atomically

#: Where a run keeps its checkpoints.
FOLDER = "checkpoints"
SUFFIX = ".ckpt"
BLOCK = 1 << 22


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds: its length in bytes and its SHA-256, the one that ``sha256sum`` prints.

    That of a folder is the SHA-256 of what ``sha256sum`` prints for its files in the order of their names.

    Attributes:
        size: In bytes; of a folder, of all its files.
        sha256: In hexadecimal digits.
        files: Name and contents of each file of a folder.
    """

    size: int
    sha256: str
    files: tuple[tuple[str, Contents], ...] = ()

    @classmethod
    def of(cls, path: Path) -> Contents:
        """Read a file or the files of a folder through."""
        if path.is_dir():
            return cls.of_folder(path)
        with path.open("rb") as file:
            return cls.read(file)

    @classmethod
    def of_folder(cls, folder: Path) -> Contents:
        """Read all files of a folder through, some at a time."""
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        with ThreadPoolExecutor() as pool:
            files = tuple(zip(names, pool.map(lambda name: cls.of(folder / name), names), strict=True))
        listing = "".join(f"{contents.sha256}  {name}\n" for name, contents in files)
        size = sum(contents.size for _, contents in files)
        return cls(size, hashlib.sha256(listing.encode()).hexdigest(), files)

    @classmethod
    def read(cls, file: BinaryIO) -> Contents:
        """Read an open file through, from where it stands."""
        digest, size = hashlib.sha256(), 0
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
        return cls(size, digest.hexdigest())

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """From an entry of a manifest."""
        files = tuple((name, cls.from_json(file)) for name, file in entry.get("files", {}).items())
        return cls(entry["size"], entry["sha256"], files)

    def as_json(self) -> dict[str, Any]:
        """As an entry of a manifest."""
        files = {name: contents.as_json() for name, contents in self.files}
        return {"size": self.size, "sha256": self.sha256, **({"files": files} if files else {})}


@dataclass(frozen=True)
class Manifest:
    """What is known of the file or folder beside it, in ``<name>.ckpt.json``.

    Attributes:
        number: Counts the saves in a folder, so the highest one is the newest whatever the clock says.
        accepted: Contents that are right: one, and while a file is being replaced those before and after.
    """

    number: int
    accepted: tuple[Contents, ...]

    @staticmethod
    def path(checkpoint: Path) -> Path:
        """Where the manifest of a checkpoint is."""
        return checkpoint.with_name(checkpoint.name + ".json")

    @classmethod
    def of(cls, checkpoint: Path) -> Manifest | None:
        """The manifest of a checkpoint; ``None`` where there is none that can be read."""
        try:
            content = json.loads(cls.path(checkpoint).read_text(encoding="utf-8"))
            accepted = tuple(map(Contents.from_json, content["accepted"]))
            return cls(int(content["number"]), accepted)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, checkpoint: Path) -> None:
        """Put it beside the checkpoint, in one move."""
        accepted = [contents.as_json() for contents in self.accepted]
        text = json.dumps({"number": self.number, "accepted": accepted}, indent=1) + "\n"
        write_atomically(self.path(checkpoint), text)


def is_divided(path: Path) -> bool:
    """Whether a checkpoint is a folder that holds a part of each process."""
    return (path / ".metadata").is_file()


def in_order(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first; those without a manifest come last, by the time of the file."""
    found = [(Manifest.of(path), path) for path in folder.glob(f"*{SUFFIX}")]
    found = [(m, path) for m, path in found if path.is_file() or (path.is_dir() and (m or is_divided(path)))]
    keys = {path: (m.number if m else 0, 0.0 if m else path.stat().st_mtime) for m, path in found}
    return sorted(keys, key=lambda path: (keys[path], path.name), reverse=True)


def next_number(folder: Path) -> int:
    """One more than any save in the folder had, those of damaged files included."""
    manifests = (Manifest.of(path.with_suffix("")) for path in folder.glob(f"*{SUFFIX}.json"))
    return 1 + max((m.number for m in manifests if m), default=0)
