"""Time and memory of measuring the parameter drift of a model in the shape of Qwen3-0.6B, with random bfloat16 weights.

Decompositions are truncated (randomised range finder). The weights of the start are read from a file, matrix by matrix;
every entry of the weights then moves a little. Prints the time of each matrix, and as JSON the totals and what the
measurement needed beyond the model.

    python -m benchmarks.drift --size tiny
    python -m benchmarks.drift --size 0.6b
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from lit_sdpo.callbacks.weights.drift import measure
from lit_sdpo.callbacks.weights.trained import TrainedWeight, trained_parameters
from lit_sdpo.report.drift import drift_table

SIZES = {
    # hidden, intermediate, layers, query heads, key-value heads, head size, vocabulary
    "tiny": (256, 768, 2, 4, 2, 64, 4000),
    "0.6b": (1024, 3072, 28, 16, 8, 128, 151_936),
}


def build(size: str) -> PreTrainedModel:
    hidden, intermediate, layers, heads, kv_heads, head_size, vocabulary = SIZES[size]
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


def memory(name: str) -> float:
    """GiB of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rank", type=float, default=0.1)
    parser.add_argument("--step", type=float, default=1e-4, help="size of the change of an entry")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build(options.size)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({name: p.detach() for name, p in trained_parameters(model).items()}, f"{folder}/base.pt")
        with torch.no_grad():
            for p in model.parameters():
                p += options.step * torch.randn(p.shape, dtype=p.dtype)
        base = torch.load(f"{folder}/base.pt", mmap=True, weights_only=True)
        Path("/proc/self/clear_refs").write_text("5")  # the highest memory so far is that of now
        before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
        times: dict[str, list[float]] = defaultdict(list)

        def watch(weight: TrainedWeight, seconds: float) -> None:
            times[weight.kind].append(seconds)
            print(f"{seconds:8.3f} s  {weight.name}", flush=True)

        total, rows = measure(model, base.__getitem__, watch, rank=options.rank, full_up_to=0)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(drift_table(rows).markdown())
    result = {
        "size": options.size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "matrices": len(rows),
        "rank": options.rank,
        "threads": options.threads,
        "relative_norm": round(float(total.relative_l2), 6),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds_per_matrix": {kind: round(sum(x) / len(x), 3) for kind, x in times.items()},
        "gib_of_model": round(before, 2),
        "gib_beyond_model": round(memory("VmHWM") - before, 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
