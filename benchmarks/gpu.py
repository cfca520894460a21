"""Whether the levers hold on an accelerator; at size ``tiny`` it runs on a CPU too.

``engine``: tokens per second of the native engine against Transformers' ``generate``. ``update``: GRPO's forward and
backward, packed with shared prompts against padded rows, with peak memory. ``head``: seconds and peak memory by tokens
per chunk. ``bfloat16``: the same update in either dtype, and how far log-probabilities drawn by the engine are from
those that the update computes. ``lora``: the update with adapters against all parameters.

    python -m benchmarks.gpu --device cpu --size tiny
    python -m benchmarks.gpu --device cuda --size 0.6b
"""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from benchmarks import plain
from benchmarks.common import (
    SHAPES,
    best,
    extra_peak_mb,
    parser,
    random_model,
    random_prompts,
    random_rows,
    report,
    rows_of,
    spread,
    use_threads,
)
from benchmarks.rollout import native
from benchmarks.update import differ, norm, packed_loss, padded_loss
from lit_sdpo.functional import chunked_loss, default_chunk_size, token_logprobs_from_logits
from lit_sdpo.policies.fused_layers import fuse
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import scorer

PARTS = ("engine", "update", "head", "bfloat16", "lora")
#: Prompts, completions of each, prompt lengths, mean and longest completion, tokens of the head.
SIZES = {
    "tiny": (2, 2, (4, 9), 4, 6, 32),
    "0.6b": (32, 8, (64, 512), 200, 512, 8192),
    "1.7b": (32, 8, (64, 512), 200, 512, 8192),
}


class Bench:
    """One size on one device.

    Args:
        size: Of :data:`SIZES`.
        device: Where.
        repeats: Rounds; the best counts.
    """

    def __init__(self, size: str, device: str, repeats: int) -> None:
        self.size, self.device, self.repeats = size, torch.device(device), repeats
        self.prompts, self.generations, (shortest, longest), mean, most, self.head_tokens = SIZES[size]
        self.longest = most
        self.vocabulary = SHAPES[size].vocabulary
        self.ids = random_prompts(spread(shortest, longest, self.prompts), self.vocabulary)
        rows = random_rows(self.ids, self.generations, self.vocabulary, mean, most)
        self.rows = Sequences(rows.prompt_ids, rows.completion_ids.to(device), rows.completion_mask.to(device))
        self.advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(3)).to(device)
        self.total = int(self.rows.completion_mask.sum())
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def model(self, dtype: torch.dtype | None = None) -> Any:
        """A model with fused norms."""
        made = random_model(self.size, device=str(self.device), dtype=dtype or self.dtype)
        fuse(made)
        return made

    def seconds(self, sides: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Best of the rounds after one call of each."""
        for run in sides.values():
            run()
        return best(sides, self.repeats, self.device)

    def peak(self, run: Callable[[], object]) -> float:
        """MiB beyond what is there before."""
        gc.collect()
        if self.device.type != "cuda":
            return extra_peak_mb(run)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def packed(self, model: Any) -> float:
        """An update with shared prompts, cut into four slices at whole groups."""
        loss, groups = 0.0, max(1, self.prompts // 4) * self.generations
        for start in range(0, len(self.rows), groups):
            some = list(range(start, min(start + groups, len(self.rows))))
            part = packed_loss(model, rows_of(self.rows, some), self.advantages[some], self.total)
            part.backward()
            loss += float(part.detach())
        return loss

    def padded(self, model: Any) -> float:
        """The same with padded rows, one group at a time."""
        loss = 0.0
        for start in range(0, len(self.rows), self.generations):
            some = list(range(start, start + self.generations))
            part = padded_loss(model, rows_of(self.rows, some), self.advantages[some], self.total)
            part.backward()
            loss += float(part.detach())
        return loss

    # ----------------------------------------------------------------------------------------------------------- parts
    def engine(self) -> list[dict[str, object]]:
        """Tokens per second of a rollout."""
        model = self.model()
        seconds = self.seconds(
            {
                "native": lambda: native(model, self.ids, self.generations, self.longest),
                "generate": lambda: plain.generate(model, self.ids, self.generations, self.longest),
            }
        )
        tokens = len(self.rows) * self.longest
        return [
            {
                "case": f"rollout, {len(self.rows)} rows of {self.longest} tokens",
                "native tokens/s": round(tokens / seconds["native"]),
                "generate tokens/s": round(tokens / seconds["generate"]),
                "speed-up": round(seconds["generate"] / seconds["native"], 2),
            }
        ]

    def update(self) -> list[dict[str, object]]:
        """Seconds and peak memory of an update."""
        model = self.model(torch.float32)
        found: dict[str, tuple[float, float]] = {}

        def run(name: str, update: Callable[[Any], float]) -> Callable[[], None]:
            def once() -> None:
                model.zero_grad(set_to_none=True)
                found[name] = update(model), norm(model)

            return once

        sides = {"packed": run("packed", self.packed), "padded": run("padded", self.padded)}
        peaks = {}
        for name, side in sides.items():
            model.zero_grad(set_to_none=True)
            peaks[name] = self.peak(side)
        seconds = self.seconds(dict(sides))
        return [
            {
                "case": "update, float32",
                "packed s": seconds["packed"],
                "padded s": seconds["padded"],
                "speed-up": round(seconds["padded"] / seconds["packed"], 2),
                "packed MiB": round(peaks["packed"]),
                "padded MiB": round(peaks["padded"]),
                "gradient norms differ by": differ(found["packed"][1], found["padded"][1]),
            }
        ]

    def head(self) -> list[dict[str, object]]:
        """Seconds and peak memory of head and loss by chunk."""
        shape, tokens = SHAPES[self.size], self.head_tokens
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        weight = (torch.randn(shape.vocabulary, shape.hidden, **options) / math.sqrt(shape.hidden)).requires_grad_()
        states = torch.randn(tokens, shape.hidden, **options).requires_grad_()
        ids = torch.randint(shape.vocabulary, (tokens,), device=self.device)
        ones = torch.ones(tokens, device=self.device)

        def losses(logits: Tensor, span: slice) -> Tensor:
            return -token_logprobs_from_logits(logits, ids[span])

        def run(chunk: int) -> Callable[[], None]:
            def once() -> None:
                weight.grad = states.grad = None
                chunked_loss(states, weight, ones, losses, chunk_size=chunk)[0].backward()

            return once

        usual = default_chunk_size(shape.vocabulary, self.device)
        chunks = [n for n in (8, 32, 128, 512, 2048, 8192) if n <= tokens]
        seconds = self.seconds({str(n): run(n) for n in chunks})
        return [
            {
                "case": f"head, chunks of {n} tokens",
                "s": seconds[str(n)],
                "MiB": round(self.peak(run(n))),
                "default": "yes" if n == max(c for c in chunks if c <= max(usual, chunks[0])) else "",
            }
            for n in chunks
        ]

    def bfloat16(self) -> list[dict[str, object]]:
        """The update and the engine's log-probabilities in either dtype."""
        made = []
        for dtype in (torch.float32, torch.bfloat16):
            model = self.model(dtype)

            def run(model: Any = model) -> None:
                model.zero_grad(set_to_none=True)
                self.packed(model)

            seconds = self.seconds({"update": run})
            drawn = native(model, self.ids, self.generations, self.longest)
            mask = torch.ones_like(drawn.ids, dtype=torch.bool)
            rows = Sequences(self.rows.prompt_ids, drawn.ids, mask)
            logits, ids = scorer(model, rows), drawn.ids[mask]
            gaps = []
            for start in range(0, len(ids), 512):
                span = slice(start, start + 512)
                gaps.append((token_logprobs_from_logits(logits(span), ids[span]) - drawn.logprobs[mask][span]).abs())
            gap = torch.cat(gaps)
            made.append(
                {
                    "case": f"update, {str(dtype).removeprefix('torch.')}",
                    "s": seconds["update"],
                    "engine and update differ by (mean, nats)": float(gap.mean()),
                    "(largest)": float(gap.max()),
                }
            )
        return made

    def lora(self) -> list[dict[str, object]]:
        """A step with adapters and without."""
        made = []
        for name in ("all parameters", "LoRA of rank 16"):
            model = self.model()
            if name != "all parameters":
                with warnings.catch_warnings():  # PEFT asks Transformers in a way that is deprecated
                    warnings.simplefilter("ignore", FutureWarning)
                    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

            def step(model: Any = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
                self.packed(model)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            peak = self.peak(step)
            seconds = self.seconds({"step": step})
            made.append({"case": f"step, {name}", "s": seconds["step"], "MiB beyond weights": round(peak)})
        return made


def main() -> None:
    options = parser(__doc__, repeats=2)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--size", choices=SIZES, default="tiny")
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = options.parse_args()
    use_threads(given.threads)
    bench = Bench("tiny" if given.tiny else given.size, given.device, given.repeats)
    rows = [row for part in given.only for row in getattr(bench, part)()]
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu"
    report("gpu", rows, device=name, size=bench.size, threads=given.threads)


if __name__ == "__main__":
    main()
