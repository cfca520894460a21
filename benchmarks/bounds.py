"""What a step takes at least on this machine: work that no implementation avoids, at rates measured here.

Counted in float32: matrix products at the shapes of the model, attention's two products over the real positions, one
exponential per logit (its gradient reuses it), one pass of sampling per token, AdamW's reading and writing of memory. A
prompt is forwarded once for its group and the teacher's context once for its group (``shared``); ``row by row`` counts
both once per row, as padded or merely packed rows need. A bound, not a prediction: twice of it is good.

    python -m benchmarks.bounds --model DIR --prompt-length 6 --max-completion-length 64
    python -m benchmarks.step ... > step.json; python -m benchmarks.bounds --model DIR --against step.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from benchmarks.common import SHAPES, best, gemm_rate, parser, report, use_threads
from lit_sdpo.rollouts.sampling import BLOCK

#: Tokens that the teacher's prompt has beyond the student's and a demonstration of full length.
TEMPLATE = 75
#: Times that AdamW touches a number per parameter: weight, gradient and two averages read, three written.
TOUCHES = 7


@dataclass(frozen=True)
class Step:
    """Sizes of a step: B completions of T tokens in groups of G after prompts of p tokens, and the teacher's q."""

    completions: int
    generations: int
    prompt: int
    tokens: int
    teacher_prompt: int
    teacher_share: float

    @property
    def prompts(self) -> int:
        """Groups."""
        return self.completions // self.generations


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second, and seconds of sampling."""

    decode: float
    update: float
    head_decode: float
    head_update: float
    attention: float
    exponentials: float
    bandwidth: float
    sampling: float


class Bound:
    """Seconds of the parts of a step.

    Args:
        config: Of the model.
        step: Sizes.
        repeats: Tries per rate; the best counts.
    """

    def __init__(self, config: Any, step: Step, repeats: int = 5) -> None:
        self.step = step
        self.hidden, self.vocabulary, self.layers = config.hidden_size, config.vocab_size, config.num_hidden_layers
        size = getattr(config, "head_dim", None) or self.hidden // config.num_attention_heads
        self.query = config.num_attention_heads * size
        kv = config.num_key_value_heads * size
        #: Input and output width, and how often in a layer.
        self.matrices = [
            (self.hidden, self.query, 1),
            (self.query, self.hidden, 1),
            (self.hidden, kv, 2),
            (self.hidden, config.intermediate_size, 2),
            (config.intermediate_size, self.hidden, 1),
        ]
        self.weights = self.layers * sum(a * b * n for a, b, n in self.matrices)
        self.parameters = self.weights + self.hidden * self.vocabulary
        self.rates = self._measure(repeats, config.num_attention_heads, size)

    def _measure(self, repeats: int, heads: int, size: int) -> Rates:
        rows, vocabulary = self.step.completions, self.vocabulary
        logits, out = torch.randn(rows, vocabulary), torch.empty(rows, -(-vocabulary // BLOCK) * BLOCK)
        q, k, scores = torch.randn(heads, 128, size), torch.randn(heads, size, 128), torch.empty(heads, 128, 128)
        big = torch.randn(1 << 22)
        copy = torch.empty_like(big)

        def sampling() -> None:
            torch.exp(logits, out=out[:, :vocabulary])
            out.view(rows, -1, BLOCK).sum(-1).cumsum(-1)

        for run in (sampling, lambda: copy.copy_(big)):
            run()
        seconds = best(
            {
                "exp": lambda: torch.exp(logits, out=out[:, :vocabulary]),
                "sampling": sampling,
                "copy": lambda: copy.copy_(big),
                "attention": lambda: [torch.bmm(q, k, out=scores) for _ in range(20)],
            },
            repeats,
        )
        return Rates(
            decode=self._rate(rows),
            update=self._rate(1024),
            head_decode=gemm_rate(rows, self.hidden, vocabulary, repeats),
            head_update=gemm_rate(128, self.hidden, vocabulary, repeats),
            attention=20 * 2 * heads * 128 * 128 * size / max(seconds["attention"], 1e-9),
            exponentials=logits.numel() / max(seconds["exp"], 1e-9),
            bandwidth=2 * 4 * big.numel() / max(seconds["copy"], 1e-9),
            sampling=seconds["sampling"],
        )

    def _rate(self, rows: int) -> float:
        """Over a layer's matrices."""
        work = sum(a * b * n for a, b, n in self.matrices)
        return work / sum(a * b * n / gemm_rate(rows, a, b, 3) for a, b, n in self.matrices)

    def _body(self, tokens: float, pairs: float, rate: float) -> float:
        """Seconds of a forward over so many tokens and pairs of a query and a key."""
        return 2 * self.weights * tokens / rate + 4 * self.query * self.layers * pairs / self.rates.attention

    def _rows(self, prompt: int, rows: float, groups: float) -> tuple[float, float]:
        """Tokens and pairs of completions after prompts that are forwarded ``groups`` times."""
        own = self.step.tokens - 1
        tokens = groups * prompt + rows * own
        return tokens, groups * prompt * (prompt + 1) / 2 + rows * own * (prompt + (own + 1) / 2)

    def _head(self, tokens: float, products: int) -> float:
        work = 2 * products * tokens * self.hidden * self.vocabulary
        return work / self.rates.head_update + tokens * self.vocabulary / self.rates.exponentials

    def generation(self) -> float:
        """Prompts once, then every token but the last through the model, every token through head and sampler."""
        s = self.step
        prefill = self._body(s.prompts * s.prompt, s.prompts * s.prompt * (s.prompt + 1) / 2, self.rates.update)
        tokens, pairs = self._rows(s.prompt, s.completions, 0)
        head = 2 * self.hidden * self.vocabulary * (s.prompts + tokens) / self.rates.head_decode
        return prefill + self._body(tokens, pairs, self.rates.decode) + head + s.tokens * self.rates.sampling

    def student(self, shared: bool) -> float:
        """Forward, backward and AdamW."""
        s = self.step
        work = self._rows(s.prompt, s.completions, s.prompts if shared else s.completions)
        adam = TOUCHES * 4 * self.parameters / self.rates.bandwidth
        return 3 * self._body(*work, self.rates.update) + self._head(s.completions * s.tokens, 3) + adam

    def teacher(self, shared: bool) -> float:
        """Forward of the rows that have a context."""
        s = self.step
        rows = s.completions * s.teacher_share
        work = self._rows(s.teacher_prompt, rows, s.prompts * s.teacher_share if shared else rows)
        return self._body(*work, self.rates.update) + self._head(rows * s.tokens, 1)

    def seconds(self, method: str, shared: bool) -> tuple[float, float]:
        """Of a step's rollout and of its update."""
        return self.generation(), self.student(shared) + (self.teacher(shared) if method == "sdpo" else 0.0)


def read(path: Path) -> dict[str, Any]:
    """The JSON line that ``benchmarks.step`` ends with."""
    found: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return found


def sizes(given: argparse.Namespace, measured: dict[str, Any] | None) -> Step:
    """Those of the options, or of the step that is compared with."""
    completions, tokens = given.completions, given.max_completion_length
    if measured is not None:
        completions, tokens = measured["completions_per_step"], measured["max_completion_length"]
    return Step(
        completions,
        given.generations,
        given.prompt_length,
        tokens,
        given.teacher_prompt_length or given.prompt_length + tokens + TEMPLATE,
        given.teacher_share,
    )


def main() -> None:
    options = parser(__doc__, repeats=7)
    options.add_argument("--model", help="model folder")
    options.add_argument("--size", choices=SHAPES, default="m", help="without a model folder")
    options.add_argument("--vocabulary", type=int, help="of a size")
    options.add_argument("--completions", type=int, default=64)
    options.add_argument("--generations", type=int, default=8)
    options.add_argument("--prompt-length", type=int, default=6)
    options.add_argument("--max-completion-length", type=int, default=64)
    options.add_argument("--teacher-prompt-length", type=int, default=0, help="0: prompt, demonstration and 75")
    options.add_argument("--teacher-share", type=float, default=1.0, help="share of the rows with a context")
    options.add_argument("--against", type=Path, help="file that ends with the JSON line of benchmarks.step")
    given = options.parse_args()
    use_threads(given.threads)
    measured = read(given.against) if given.against else None
    if given.tiny:
        given.size, given.completions, given.generations, given.max_completion_length, given.repeats = (
            "tiny",
            4,
            2,
            4,
            1,
        )
    config = AutoConfig.from_pretrained(given.model) if given.model else SHAPES[given.size].config(given.vocabulary)
    bound = Bound(config, sizes(given, measured), given.repeats)
    rows: list[dict[str, object]] = []
    for method in [measured["method"]] if measured else ["grpo", "sdpo"]:
        for name, shared in (("shared", True), ("row by row", False)):
            generation, update = bound.seconds(method, shared)
            row: dict[str, object] = {"method": method, "prompts": name, "generation s": generation, "update s": update}
            if measured is not None:
                row["generation ÷ bound"] = round(measured["generation_cpu_seconds"] / generation, 2)
                row["update ÷ bound"] = round(measured["update_cpu_seconds"] / update, 2)
                row["step ÷ bound"] = round(measured["cpu_seconds_per_step"] / (generation + update), 2)
            rows.append(row)
    rates = {name: float(f"{value:.4g}") for name, value in vars(bound.rates).items()}
    report("bounds", rows, **vars(bound.step), parameters=bound.parameters, rates=rates, threads=given.threads)


if __name__ == "__main__":
    main()
