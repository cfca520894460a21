"""What the benchmarks share: options, models, rows, time, memory, tables."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from lit_sdpo.policies.packing import Sequences


# ----------------------------------------------------------------------------------------------------- models and rows
@dataclass(frozen=True)
class Shape:
    """A Qwen3 with tied embeddings and a feed-forward width of three times the hidden size, unless told otherwise."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    intermediate: int | None = None

    def config(self, vocabulary: int | None = None) -> Qwen3Config:
        """The shape as Transformers wants it; no token ends a completion."""
        return Qwen3Config(
            vocab_size=vocabulary or self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate or 3 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )


SHAPES = {
    "tiny": Shape(32, 2, 4, 2, 8, 97),
    "s": Shape(96, 4, 4, 2, 24, 800),
    "m": Shape(384, 6, 6, 2, 64, 512),
    "0.6b": Shape(1024, 28, 16, 8, 128, 151_936),
    "1.7b": Shape(2048, 28, 16, 8, 128, 151_936),
    "4b": Shape(2560, 36, 32, 8, 128, 151_936, 9728),
}


def random_model(
    size: str, vocabulary: int | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model with random weights, always the same ones on a device, in eval mode."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(SHAPES[size].config(vocabulary)).eval()
    finally:
        torch.set_default_dtype(before)


def spread(shortest: int, longest: int, count: int) -> list[int]:
    """``count`` lengths at equal distances.

    Example:
        >>> spread(32, 256, 3)
        [32, 144, 256]
    """
    return torch.linspace(shortest, longest, count).round().long().tolist()


def random_prompts(lengths: Sequence[int], vocabulary: int) -> list[list[int]]:
    """Prompts of random tokens; token 0 is left out, as it may end a completion."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def random_rows(prompts: Sequence[Sequence[int]], generations: int, vocabulary: int, mean: int, most: int) -> Sequences:
    """Completions with exponentially distributed lengths of mean ``mean``, cut at ``most``."""
    generator = torch.Generator().manual_seed(2)
    rows = len(prompts) * generations
    lengths = torch.empty(rows).exponential_(1 / mean, generator=generator).ceil().clamp(1, most)
    ids = torch.randint(1, vocabulary, (rows, int(lengths.max())), generator=generator)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return Sequences([p for p in prompts for _ in range(generations)], ids.masked_fill(~mask, 0), mask)


def write_additions(folder: str | Path, count: int = 64) -> Path:
    """A JSONL file with prompts and answers, as ``benchmarks.step`` reads it."""
    path = Path(folder) / "additions.jsonl"
    lines = [{"prompt": f"{n}+{7 * n % 100}=", "answer": str(n + 7 * n % 100)} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows_of(sequences: Sequences, rows: Sequence[int]) -> Sequences:
    """Some rows, cut to their longest completion."""
    index = torch.as_tensor(rows, dtype=torch.long, device=sequences.completion_ids.device)
    mask = sequences.completion_mask[index]
    width = int(mask.sum(1).max())
    return Sequences([sequences.prompt_ids[n] for n in rows], sequences.completion_ids[index, :width], mask[:, :width])


# ---------------------------------------------------------------------------------------------------------------- time
@dataclass
class Clock:
    """Wall and process time in seconds, added up over everything it was started for."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what passes inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu


def use_threads(count: int) -> None:
    """Compute on ``count`` threads; process time then is at most that many times the wall time."""
    torch.set_num_threads(count)


def now(device: torch.device | None = None) -> float:
    """Seconds: process time on a CPU, wall time with all work done on an accelerator."""
    if device is None or device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def best(
    sides: Mapping[str, Callable[[], object]], repeats: int, device: torch.device | None = None
) -> dict[str, float]:
    """Fewest seconds of each side over some rounds, in which the sides take turns."""
    seconds = dict.fromkeys(sides, float("inf"))
    for _ in range(repeats):
        for name, run in sides.items():
            gc.collect()
            start = now(device)
            run()
            seconds[name] = min(seconds[name], now(device) - start)
    return seconds


def gemm_rate(rows: int = 1024, inner: int = 1024, columns: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations per second of ``[rows, inner] @ [inner, columns]`` in float32."""
    a, b, out = torch.randn(rows, inner), torch.randn(columns, inner), torch.empty(rows, columns)
    count = max(1, int(2e8 / (rows * inner * columns)))

    def run() -> None:
        for _ in range(count):
            torch.mm(a, b.T, out=out)

    run()
    return 2 * rows * inner * columns * count / best({"gemm": run}, repeats)["gemm"]


# -------------------------------------------------------------------------------------------------------------- memory
def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def status_mb(name: str) -> float:
    """``VmRSS`` (resident now) or ``VmHWM`` (at most so far) of this process, in MiB; needs Linux."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 2**10


def extra_peak_mb(run: Callable[[], object]) -> float:
    """MiB that ``run`` needs at most beyond what is resident before it; meant for a fresh process."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far becomes that of now
    before = status_mb("VmRSS")
    run()
    return status_mb("VmHWM") - before


def in_fresh_process(module: str, *arguments: str, threads: int = 1) -> dict[str, Any]:
    """Run ``python -m module`` and read the JSON line that it ends with."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# -------------------------------------------------------------------------------------------------- options and output
def parser(text: str | None, repeats: int = 3) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--repeats", type=int, default=repeats, help="rounds; the best of each side counts")
    made.add_argument("--tiny", action="store_true", help="the smallest sizes, to see that it runs")
    return made


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table; its columns are the keys of all rows.

    Example:
        >>> print(table([{"case": "a", "seconds": 1.5}, {"case": "b", "ratio": 2}]))
        | case | seconds | ratio |
        |---|---|---|
        | a | 1.5 |  |
        | b |  | 2 |
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def machine() -> str:
    """Processor and versions, for the tables."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    simd = torch.backends.cpu.get_cpu_capability()
    return f"{(names or [platform.processor()])[0]}, {os.cpu_count()} cores, {simd}, torch {torch.__version__}"


def report(name: str, rows: Sequence[Mapping[str, object]], **more: object) -> None:
    """Print a table for each kind of row and one JSON line with the same numbers."""
    kinds: dict[tuple[str, ...], list[Mapping[str, object]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    print("\n\n".join(map(table, kinds.values())), end="\n\n")
    print(json.dumps({"benchmark": name, "machine": machine(), **more, "rows": list(rows)}), flush=True)
