"""Writing a checkpoint so that a kill, a full disk or a lost machine leaves the old file or the new one."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.checkpoints.manifest import Contents, Manifest, next_number
from lit_sdpo.errors import UserError
from lit_sdpo.failures import NO_SPACE, interruption
from lit_sdpo.files import sync
from lit_sdpo.processes import is_running

TEMPORARY = re.compile(r".+\.tmp-(\d+)")
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


class _Recorder:
    """A file for ``torch.save`` that computes what it writes, and remembers the error that torch would hide."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        block = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        try:
            self.file.write(block)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(block)
        self.size += len(block)
        return len(block)

    def flush(self) -> None:
        self.file.flush()


def save(value: Any, path: Path) -> None:
    """Replace ``path`` by what ``torch.save`` makes of ``value``.

    The bytes go to a temporary file beside the target, reach the disk and are read back before the target is replaced;
    the manifest is written last. A process that is killed on the way leaves the old file whole.

    Raises:
        UserError: The folder is full or may not be written to; the old file is as it was.
    """
    with explained(path, lambda: tensor_bytes(value)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        try:
            contents = _write(value, temporary)
            number = next_number(path.parent)
            if path.exists():  # both are right until the manifest says otherwise
                known = Manifest.of(path)
                Manifest(number, (*(known.accepted if known else [Contents.of(path)]), contents)).write(path)
            os.replace(temporary, path)
            sync(path.parent)
            Manifest(number, (contents,)).write(path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _write(value: Any, temporary: Path) -> Contents:
    with temporary.open("wb", buffering=0) as file:
        recorder = _Recorder(file)
        try:
            torch.save(value, recorder)  # type: ignore[arg-type]
        except Exception as error:  # torch only says "unexpected pos"
            if (cause := recorder.error or interruption(error)) is not None:
                raise cause from None
            raise
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # read back from the disk rather than from memory, where that can be asked for
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    contents = Contents(recorder.size, recorder.digest.hexdigest())
    if (found := Contents.of(temporary)) != contents:
        raise OSError(errno.EIO, f"{found.size} bytes came back that differ from the {contents.size} written")
    return contents


@contextmanager
def explained(path: Path, need: Callable[[], int]) -> Iterator[None]:
    """Turn errors of the file system into what a user can act on.

    Args:
        path: The file that is written.
        need: Gives the bytes that it needs.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise no_space(path, need()) from error
        if error.errno in NO_PERMISSION:
            who = f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
            raise UserError(
                f"no checkpoint can be written: {who} has no permission to write there ({error.strerror})",
                where=str(path),
                fix="give the run a folder that it may write to, or change the folder's permissions",
            ) from error
        raise


def no_space(path: Path, need: int) -> UserError:
    """The error for a full disk: where, what is needed, what there is."""
    return UserError(
        f"the disk is full: the checkpoint needs {readable(need)}, {readable(free_bytes(path.parent))} are free",
        where=str(path),
        fix="free some space, or keep fewer checkpoints",
    )


def probe(folder: Path, need: int) -> None:
    """Find out before the first step whether a checkpoint could be written.

    Args:
        folder: Where checkpoints will go.
        need: Bytes that one needs at least.

    Raises:
        UserError: It could not.
    """
    trial = folder / f"probe.tmp-{os.getpid()}"
    with explained(folder / "*.ckpt", lambda: need):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            trial.write_bytes(b"x")
        finally:
            trial.unlink(missing_ok=True)
    if free_bytes(folder) < need:
        raise no_space(folder / "*.ckpt", need)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files and folders of saves whose process is gone, say so, and return them."""
    found = [(path, match) for path in folder.glob("*.tmp-*") if (match := TEMPORARY.fullmatch(path.name))]
    stale = [path for path, match in found if not is_running(int(match[1]))]
    files = [file for path in stale for file in (path, *path.rglob("*")) if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    for path in stale:
        remove(path)
    if stale:
        rank_zero_info(f"Removed {len(stale)} unfinished files ({readable(size)}) of killed runs from {folder}.")
    return stale


def remove(path: Path) -> None:
    """Remove a file or a folder; neither need be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written to a folder, or to the nearest one above that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts and lists; each storage counts once.

    Example:
        >>> x = torch.zeros(10)
        >>> tensor_bytes({"a": x, "b": [x[:5], torch.zeros(2, dtype=torch.int64)]})
        56
    """
    storages: dict[int, int] = {}
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, torch.Tensor):
            own: torch.Tensor = entry.to_local() if hasattr(entry, "to_local") else entry
            storage = own.untyped_storage()  # of a sharded tensor this process has a part, and the file gets the whole
            storages[storage.data_ptr()] = storage.nbytes() if own is entry else entry.numel() * entry.element_size()
        elif isinstance(entry, dict):
            waiting.extend(entry.values())
        elif isinstance(entry, (list, tuple)):
            waiting.extend(entry)
    return sum(storages.values())


def readable(size: int) -> str:
    """A number of bytes for people.

    Example:
        >>> readable(3_250_000), readable(12)
        ('3.2 MB', '12 bytes')
    """
    number, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
