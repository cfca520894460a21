"""How far a run has come, as its folder tells it: started here, by another process or on another machine."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_sdpo.checkpoints.lock import NAME as LOCK
from lit_sdpo.checkpoints.manifest import FOLDER, Manifest, in_order
from lit_sdpo.processes import start_ticks
from lit_sdpo.sweep.resolved import differences, fingerprint

RECORD = "sweep.json"
LOG = "log.txt"
REPLACED = ".replaced"

State = Literal["new", "unfinished", "failed", "running", "changed", "finished"]


@dataclass(frozen=True)
class Job:
    """One run with one seed: a process and a folder.

    Attributes:
        run: Name of the run.
        seed: Its seed.
        output: Folder of the whole sweep.
        command: What starts the process, or goes on with what it began.
        config: The resolved configuration.
    """

    run: str
    seed: int
    output: Path
    command: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.output / self.run / f"seed={self.seed}"


@dataclass(frozen=True)
class Found:
    """What a folder says of its run.

    Attributes:
        state: How far it has come; ``changed`` if what lies there was made with another configuration.
        changes: One line for each value of the configuration that differs.
        record: What the sweep has written of its last process; empty if it ran none.
    """

    state: State
    changes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall and CPU seconds of its processes up to now, 0 where the sweep does not know."""
        return float(self.record.get("wall_seconds", 0)), float(self.record.get("cpu_seconds", 0))


def look(job: Job) -> Found:
    """Find out how far a run has come."""
    record = _json(job.folder / RECORD)
    if _is_running(job.folder / LOCK):
        return Found("running", record=record)
    recorded = _config(job.folder)
    same = recorded is None or record.get("fingerprint") == fingerprint(job.config)
    if not same and (changes := differences(recorded or {}, job.config)):
        return Found("changed", tuple(changes), record)
    if record.get("state") == "finished" or _is_complete(job.folder, recorded):
        return Found("finished", record=record)
    if record.get("state") == "failed":
        return Found("failed", record=record)
    return Found("new" if recorded is None else "unfinished", record=record)


def set_aside(job: Job) -> Path:
    """Move a run's folder out of the way, into ``.replaced`` of the sweep's folder, and return where it is now."""
    number = 1
    while (target := job.output / REPLACED / job.run / f"seed={job.seed}-{number}").exists():
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(job.folder, target))


def has_checkpoint(job: Job) -> bool:
    """Whether there is something to go on from."""
    return bool(in_order(job.folder / FOLDER))


def _is_complete(folder: Path, config: Mapping[str, Any] | None) -> bool:
    """Whether the last stage's checkpoint is there, nobody holds the folder, and no failure came after it."""
    stages = (config or {}).get("trainer", {}).get("max_epochs")
    if stages is None or (folder / LOCK).exists():
        return False
    for checkpoint in (folder / FOLDER).glob(f"stage={stages - 1}-step=*.ckpt"):
        manifest = Manifest.path(checkpoint)
        if not manifest.is_file():
            continue
        record = folder / RECORD
        return not record.is_file() or manifest.stat().st_mtime > record.stat().st_mtime
    return False


def _config(folder: Path) -> dict[str, Any] | None:
    """What the last process that trained in a folder was configured with."""
    path = folder / "config.yaml"
    if not path.exists():
        return None
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else None


def _is_running(lock: Path) -> bool:
    """Whether the process that a lock names lives; of other machines it is taken for granted."""
    owner = _json(lock)
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    ticks = start_ticks(int(owner.get("pid", 0)))
    return ticks is not None and ticks == owner.get("ticks")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
