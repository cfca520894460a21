"""Devices, and how fast each multiplies matrices in which precision: measured, not supposed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.diagnosis.machine import usable_cores
from lit_sdpo.units import size

DTYPES = ("float32", "bfloat16", "float16")
#: Rows of the product that stands for generation, which multiplies few rows by large matrices.
ROWS = 16
#: Seconds that one measurement takes at least, and that a single product may take.
SECONDS, LONGEST = 0.1, 0.15
#: A precision is the faster one from this ratio on.
CLEAR = 1.1

#: Products per second of square matrices and of few rows, in 1e9 operations per second, by precision.
Speeds = Mapping[str, tuple[float, float]]


def devices() -> Iterator[Finding]:
    """The GPUs, and for each device its speed in each precision."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = torch.version.cuda or torch.version.hip
        why = "torch sees none, though it is built for them" if built else "this torch is built for CPUs"
        yield Finding("gpu", "ok", f"none ({why})")
    for number in range(count):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        yield Finding("gpu", "ok", f"{number}: {properties.name}, {size(total)}, {size(free)} free")
    for device in [torch.device("cpu"), *(torch.device("cuda", number) for number in range(count))]:
        yield speed_finding(str(device), speeds(device))
    load, cores = os.getloadavg()[0], usable_cores()
    if load > cores:
        text = f"{load:.1f} processes want to run on {cores} cores: the speeds of the cpu are lower than they could be"
        yield Finding("load", "note", text, "run it again when the machine is idle")


def speed_finding(device: str, found: Speeds) -> Finding:
    """Which precision is the fastest.

    Example:
        >>> print(speed_finding("cpu", {"float32": (80.0, 20.0), "bfloat16": (10.0, 5.0)}))
        note     speed on cpu: float32 80 GFLOP/s (16 rows: 20), bfloat16 10 GFLOP/s (16 rows: 5); float32 is the fastest here, so bfloat16 costs time. Keep dtype: float32 and no precision bf16 unless memory asks for it.
    """  # noqa: E501
    told = ", ".join(
        f"{name} {_told(square)} GFLOP/s ({ROWS} rows: {_told(few)})" for name, (square, few) in found.items()
    )
    if not found:
        return Finding(f"speed on {device}", "problem", "no precision works")
    base = found.get("float32", (0.0, 0.0))
    best = fastest(found)
    if best == "float32" and "bfloat16" in found and found["bfloat16"][0] < base[0]:
        text = f"{told}; float32 is the fastest here, so bfloat16 costs time"
        fix = "keep dtype: float32 and no precision bf16 unless memory asks for it"
        return Finding(f"speed on {device}", "note", text, fix)
    return Finding(f"speed on {device}", "ok", f"{told}; {best} is the fastest here")


def fastest(found: Speeds) -> str:
    """The precision with the fastest square product; float32 where another one is not clearly faster.

    Example:
        >>> fastest({"float32": (80.0, 20.0), "bfloat16": (84.0, 20.0), "float16": (40.0, 9.0)})
        'float32'
    """
    best = max(found, key=lambda name: found[name][0])
    return "float32" if "float32" in found and found[best][0] < CLEAR * found["float32"][0] else best


def speeds(device: torch.device) -> dict[str, tuple[float, float]]:
    """Measure each precision; those that the device does not have are left out."""
    found: dict[str, tuple[float, float]] = {}
    for name in DTYPES:
        try:
            found[name] = _measure(device, getattr(torch, name))
        except (RuntimeError, NotImplementedError):
            continue
    return found


@torch.inference_mode()
def _measure(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    width, most = (256, 2048) if device.type == "cpu" else (4096, 8192)
    while True:
        a = torch.ones(width, width, dtype=dtype, device=device)
        once = _seconds(lambda a=a: a @ a, device, 0.0)  # type: ignore[misc]
        if width >= most or 8 * once > LONGEST:
            break
        width *= 2
    few = a[:ROWS].clone()
    square, thin = _seconds(lambda: a @ a, device, SECONDS), _seconds(lambda: few @ a, device, SECONDS)
    return 2e-9 * width**3 / square, 2e-9 * ROWS * width**2 / thin


def _seconds(product: Callable[[], torch.Tensor], device: torch.device, least: float) -> float:
    """Seconds of one product after a first one, the shortest seen in ``least`` seconds: others may be working too."""
    product()
    _wait(device)
    begun, best = time.perf_counter(), float("inf")
    count = 1 if device.type == "cpu" else 8  # so that waiting for a GPU does not count
    while True:
        started = time.perf_counter()
        for _ in range(count):
            product()
        _wait(device)
        ended = time.perf_counter()
        best = min(best, (ended - started) / count)
        if ended - begun >= least:
            return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _told(gflops: float) -> str:
    return f"{gflops:,.0f}" if gflops >= 1 else f"{gflops:.2g}"
