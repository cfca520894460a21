"""Useful tokens per CPU second of the native engine against Transformers' ``generate``, in one process.

Both draw from the same random model with the same prompts, lengths and end tokens; ``generate`` gets its rows repeated
and left-padded. Ends are drawn with a chance of 1/64 per token (``hazard``) or never (``fixed``). Runs alternate and
the best of each counts, as a shared machine is noisy. The bound is the matrix products of useful tokens at the rate of
a square product of 1024, measured in the same run.

    python -m benchmarks.rollout --size s
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from benchmarks.common import best, gemm_rate, parser, random_model, random_prompts, report, spread, use_threads
from benchmarks.plain import EndHazard, generate
from lit_sdpo.policies.fused_layers import fuse
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.types import Completions, Sampling

#: Prompts, completions of each, prompt lengths, longest completion.
SIZES = {"tiny": (2, 2, (4, 9), 6), "s": (6, 8, (12, 40), 64), "m": (8, 8, (32, 256), 128)}
HAZARD = 1 / 64


def native(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    generations: int,
    tokens: int,
    end: EndHazard | None = None,
) -> Completions:
    """Sample with the native engine."""

    def with_end(_module: object, _inputs: object, output: Any) -> Any:
        assert end is not None
        end(None, output.logits[:, -1])
        return output

    seeds = sample_seeds(0, item_ids=[str(n) for n in range(len(prompts))], num_generations=generations)
    hook = model.register_forward_hook(with_end) if end is not None else None
    try:
        return NativeEngine().generate(
            model,
            prompts,
            num_generations=generations,
            sampling=Sampling(max_new_tokens=tokens),
            seeds=seeds.to(model.device),
            end_ids=[] if end is None else [0],
            pad_id=0,
        )
    finally:
        if hook is not None:
            hook.remove()


def main() -> None:
    options = parser(__doc__, repeats=4)
    options.add_argument("--size", choices=SIZES, default="s")
    options.add_argument("--tokens", type=int, help="longest completion")
    options.add_argument("--vocabulary", type=int)
    options.add_argument("--prompts", type=int)
    options.add_argument("--generations", type=int)
    given = options.parse_args()
    use_threads(given.threads)
    size = "tiny" if given.tiny else given.size
    count, generations, (shortest, longest), tokens = SIZES[size]
    count, generations = given.prompts or count, given.generations or generations
    tokens = given.tokens or tokens
    plain = random_model(size, given.vocabulary)
    ours = random_model(size, given.vocabulary)
    fuse(ours)
    prompts = random_prompts(spread(shortest, longest, count), plain.config.vocab_size)
    flops = 2 * sum(p.numel() for p in plain.parameters())
    rate = gemm_rate()
    rows = []
    for name, end in (("hazard", EndHazard(HAZARD)), ("fixed", None)):
        drawn = {"native": 0, "generate": 0}

        def run_native(end: EndHazard | None = end, drawn: dict[str, int] = drawn) -> None:
            drawn["native"] = int(native(ours, prompts, generations, tokens, end).lengths.sum())

        def run_plain(end: EndHazard | None = end, drawn: dict[str, int] = drawn) -> None:
            drawn["generate"] = generate(plain, prompts, generations, tokens, end)

        speed = dict.fromkeys(drawn, 0.0)
        for _ in range(given.repeats):  # each run draws other lengths, so the best rate counts
            seconds = best({"native": run_native, "generate": run_plain}, 1)
            speed = {side: max(speed[side], drawn[side] / seconds[side]) for side in drawn}
        rows.append(
            {
                "ends": name,
                "native tokens/s": round(speed["native"]),
                "generate tokens/s": round(speed["generate"]),
                "ratio": round(speed["native"] / speed["generate"], 2),
                "native share of bound": round(speed["native"] * flops / rate, 3),
            }
        )
    report(
        "rollout",
        rows,
        size=size,
        parameters=sum(p.numel() for p in plain.parameters()),
        completions=count * generations,
        max_new_tokens=tokens,
        vocabulary=plain.config.vocab_size,
        gemm_gflops=round(rate / 1e9, 1),
    )


if __name__ == "__main__":
    main()
