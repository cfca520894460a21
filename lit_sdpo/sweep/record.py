"""What is kept of a run's processes beside its results: how they ended, what they cost, what made them."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import lit_sdpo
from lit_sdpo.credentials import arguments_without_secrets
from lit_sdpo.files import write_atomically
from lit_sdpo.sweep.resolved import fingerprint
from lit_sdpo.sweep.state import RECORD, Job
from lit_sdpo.versions import version_of

_PACKAGES = ("torch", "lightning", "transformers")


def write_record(job: Job, state: str, exit_code: int, wall_seconds: float, cpu_seconds: float) -> None:
    """Write ``sweep.json`` into a run's folder in one move.

    Args:
        job: The run.
        state: finished, failed or interrupted.
        exit_code: Of its last process; below 0 the signal that killed it.
        wall_seconds: Of all its processes.
        cpu_seconds: Of all its processes.
    """
    content = {
        "state": state,
        "exit_code": exit_code,
        "wall_seconds": round(wall_seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": fingerprint(job.config),
        "command": arguments_without_secrets(job.command),
        "commit": commit(),
        "versions": versions(),
    }
    write_atomically(job.folder / RECORD, json.dumps(content, indent=1) + "\n")


@cache
def commit() -> str | None:
    """Commit of the package where it lies in a Git working tree, with ``+`` behind it if files have changed."""
    folder = str(Path(lit_sdpo.__file__).parent)
    try:
        head, changed = (
            subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if changed.strip() else "")


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python, this package and those below it."""
    return {
        "python": platform.python_version(),
        "lit-sdpo": lit_sdpo.__version__,
        **{name: version_of(name) for name in _PACKAGES},
    }
