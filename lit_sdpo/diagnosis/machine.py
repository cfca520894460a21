"""Processor, memory, disk and limits, as this process has them: containers and quotas included."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.units import GIB, size

#: Instructions that make half precision fast, by their name in /proc/cpuinfo.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "bf16", "fphp", "sve")
#: Open files below which worker processes and data files may run out.
FEW_FILES = 1024
LITTLE_DISK, LITTLE_SHARED = 5 * GIB, 64 * 2**20


def processor() -> Iterator[Finding]:
    """Cores, instructions and threads."""
    cores = usable_cores()
    quota = cpu_quota()
    info = _read(Path("/proc/cpuinfo"))
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip().lower(): value.strip() for key, value in lines.items()}
    known = set(fields.get("flags", fields.get("features", "")).split())
    has = ", ".join(name for name in FEATURES if name in known)
    name = fields.get("model name", platform.processor() or platform.machine())
    limit = f", limited to {quota:.3g} by its control group" if quota is not None and quota < cores else ""
    yield Finding("cpu", "ok", f"{name}, {cores} cores{limit}" + (f"; {has}" if has else ""))
    room = max(1, min(cores, int(quota) if quota else cores))
    yield threads(torch.get_num_threads(), room, os.environ.get("OMP_NUM_THREADS"))


def threads(used: int, room: int, given: str | None) -> Finding:
    """Whether torch uses as many threads as there is room for.

    Args:
        used: Threads of torch.
        room: Cores that this process may use.
        given: ``OMP_NUM_THREADS``, if set.

    Example:
        >>> print(threads(16, 2, None))
        note     threads: torch uses 16 threads on 2 cores, which slow each other down. Export OMP_NUM_THREADS=2.
    """
    how = f"OMP_NUM_THREADS={given}" if given else "OMP_NUM_THREADS is not set"
    if used > room:
        text = f"torch uses {used} threads on {room} cores, which slow each other down"
        return Finding("threads", "note", text, f"export OMP_NUM_THREADS={room}")
    if used < room and given:
        text = f"torch uses {used} of {room} cores ({how})"
        fix = f"on a machine of your own, export OMP_NUM_THREADS={room}; with N processes, cores / N each"
        return Finding("threads", "note", text, fix)
    return Finding("threads", "ok", f"torch uses {used} ({how}); with N processes give each cores / N")


def memory() -> Iterator[Finding]:
    """Memory that is there and free, and the limit of the control group."""
    found = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    total, free = (int(found[key].split()[0]) * 1024 if key in found else None for key in ("MemTotal", "MemAvailable"))
    if total is None or free is None:
        yield Finding("memory", "ok", "unknown on this system")
        return
    limit, used = memory_limit()
    text = f"{size(total)}, {size(free)} free"
    if limit is not None and limit < total:
        text += f"; the control group allows {size(limit)}, of which {size(max(0, limit - used))} are left"
    yield Finding("memory", "ok", text)


def free_memory() -> int | None:
    """Bytes that a new process can have; ``None`` where that is not known."""
    found = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    if "MemAvailable" not in found:
        return None
    free = int(found["MemAvailable"].split()[0]) * 1024
    limit, used = memory_limit()
    return free if limit is None else min(free, max(0, limit - used))


def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> tuple[int | None, int]:
    """Bytes that the control groups above this process allow, and what is used of them; ``None`` for no limit."""
    limits: list[tuple[int, int]] = []
    for folder in _groups(root, own, "memory"):
        for most, now in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            text = _read(folder / most).strip()
            if text.isdecimal() and int(text) < 1 << 60:
                limits.append((int(text), int(_read(folder / now).strip() or 0)))
    return min(limits, default=(None, 0))


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores that the control groups above this process allow; ``None`` for no limit."""
    quotas: list[float] = []
    for folder in _groups(root, own, "cpu"):
        words = _read(folder / "cpu.max").split()
        if not words:
            words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def storage() -> Iterator[Finding]:
    """Free disk, shared memory and open files."""
    for label, folder in (("here", Path.cwd()), ("for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        if free < LITTLE_DISK:
            yield Finding("disk", "note", f"{size(free)} free {label} ({folder})", "mind the size of checkpoints")
        else:
            yield Finding("disk", "ok", f"{size(free)} free {label} ({folder})")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        fix = "in Docker: --shm-size=1g or --ipc=host" if free < LITTLE_SHARED else ""
        text = f"{size(free)} free in {shared}, which processes on GPUs and loaders with workers share"
        yield Finding("shared memory", "note" if fix else "ok", text, fix)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < FEW_FILES
    most = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    fix = f"ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536}" if few else ""
    yield Finding("open files", "note" if few else "ok", f"{soft:,} at once (up to {most})", fix)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, the outer ones too."""
    for line in _read(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        base = root if number == "0" else root / controller
        inner = base / path.lstrip("/")
        yield from dict.fromkeys([folder for folder in (inner, *inner.parents) if folder.is_relative_to(base)])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
