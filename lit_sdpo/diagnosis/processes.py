"""Whether processes could train together here: a group of two over gloo, and one over NCCL for the GPUs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from lit_sdpo.diagnosis.findings import Finding

WAIT = timedelta(seconds=20)


def groups() -> Iterator[Finding]:
    """Add up a number over each kind of group."""
    if not dist.is_available():
        yield Finding("process group", "note", "this torch has no torch.distributed: one device only")
        return
    backends: list[tuple[str, list[torch.device]]] = [("gloo", [torch.device("cpu")] * 2)]
    if torch.cuda.is_available() and dist.is_nccl_available():
        backends.append(("nccl", [torch.device("cuda", n) for n in range(torch.cuda.device_count())]))
    for backend, devices in backends:
        started = time.perf_counter()
        try:
            right = _sums(backend, devices)
        except (RuntimeError, TimeoutError) as error:
            right, why = False, f" ({' '.join(str(error).split())[:200]})"
        else:
            why = "" if right else " (the sum is wrong)"
        if right:
            text = f"{backend} over {len(devices)}, in {time.perf_counter() - started:.1f} s"
            yield Finding("process group", "ok", text)
        else:
            name = "GLOO_SOCKET_IFNAME" if backend == "gloo" else "NCCL_SOCKET_IFNAME"
            yield Finding(
                "process group",
                "note",
                f"{backend} does not work here{why}; training on one device does",
                f"name the network interface, such as {name}=lo, or look at NCCL_DEBUG=INFO",
            )


def _sums(backend: str, devices: list[torch.device]) -> bool:
    """Whether the ranks agree on 1 + 2 + ...; each rank is a thread, and they meet over the network as ever."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    count = len(devices)

    def rank(number: int) -> float:
        kind: Any = dist.ProcessGroupGloo if backend == "gloo" else dist.ProcessGroupNCCL  # type: ignore[attr-defined]
        options = (WAIT,) if backend == "gloo" else ()
        group = kind(store, number, count, *options)
        value = torch.full((1,), float(number + 1), device=devices[number])
        group.allreduce([value]).wait()
        return float(value)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(rank, range(count))) == [count * (count + 1) / 2] * count
