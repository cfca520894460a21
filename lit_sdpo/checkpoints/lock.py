"""One process per run folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_sdpo.errors import UserError
from lit_sdpo.processes import is_running, start_ticks

NAME = "run.lock"


class RunLock:
    """Holds a folder for this process, with a file ``run.lock`` that names it.

    The system's own lock on the file ends with the process however it ends, so a killed run leaves no folder behind
    that nobody may use. Where the file system has no locks, the process that the file names is looked up instead: by
    number and start time, as numbers come back.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process has the folder."""
        return self._file is not None

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            UserError: Another process has it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            owner = _owner(self.path)
            if not _lock(descriptor, owner):
                os.close(descriptor)
                raise self._refused(owner)
            if _same_file(descriptor, self.path):
                break
            os.close(descriptor)  # the owner has just removed it
        if owner:
            from lightning.pytorch.utilities import rank_zero_info  # who only reads a lock needs no Lightning

            rank_zero_info(
                f"Process {owner.get('pid')} on {owner.get('host')}, which had {self.path.parent} since"
                f" {owner.get('started')}, is gone; its lock is taken over."
            )
        text = json.dumps(_this_process()) + "\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        os.fsync(descriptor)
        self._file = descriptor

    def release(self) -> None:
        """Give the folder back; does nothing without it."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _refused(self, owner: dict[str, Any]) -> UserError:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('started', '?')}"
        return UserError(
            f"another run is using this folder ({who})",
            where=str(self.path.parent),
            fix="wait for it or end it, or give this run another folder",
        )


def _lock(descriptor: int, owner: dict[str, Any]) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        return not _lives(owner)
    return True


def _lives(owner: dict[str, Any]) -> bool:
    """Whether the process that a lock file names is still there; of other machines it is taken for granted."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    pid = int(owner.get("pid", 0))
    return pid > 0 and is_running(pid) and owner.get("ticks") == start_ticks(pid)


def _owner(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": started, "ticks": start_ticks(pid)}
