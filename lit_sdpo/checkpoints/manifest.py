"""The manifest of a checkpoint: which bytes are right, and in which order the checkpoints of a folder were written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lit_sdpo.callbacks.folder import write_atomically

SUFFIX = ".ckpt"
BLOCK = 1 << 22


@dataclass(frozen=True)
class Contents:
    """What a file holds: its length in bytes and its SHA-256, the one that ``sha256sum`` prints."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Contents:
        """Read a file through."""
        with path.open("rb") as file:
            return cls.read(file)

    @classmethod
    def read(cls, file: BinaryIO) -> Contents:
        """Read an open file through, from where it stands."""
        digest, size = hashlib.sha256(), 0
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
        return cls(size, digest.hexdigest())


@dataclass(frozen=True)
class Manifest:
    """What is known of the file beside it, in ``<name>.ckpt.json``.

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
            accepted = tuple(Contents(entry["size"], entry["sha256"]) for entry in content["accepted"])
            return cls(int(content["number"]), accepted)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write(self, checkpoint: Path) -> None:
        """Put it beside the checkpoint, in one move."""
        accepted = [{"size": contents.size, "sha256": contents.sha256} for contents in self.accepted]
        text = json.dumps({"number": self.number, "accepted": accepted}, indent=1) + "\n"
        write_atomically(self.path(checkpoint), text)


def in_order(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first; those without a manifest come last, by the time of the file."""
    found = [(Manifest.of(path), path) for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    keys = {path: (m.number if m else 0, 0.0 if m else path.stat().st_mtime) for m, path in found}
    return sorted(keys, key=lambda path: (keys[path], path.name), reverse=True)


def next_number(folder: Path) -> int:
    """One more than any save in the folder had, those of damaged files included."""
    manifests = (Manifest.of(path.with_suffix("")) for path in folder.glob(f"*{SUFFIX}.json"))
    return 1 + max((m.number for m in manifests if m), default=0)
