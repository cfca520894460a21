"""Useful tokens per CPU second of the native engine against Transformers' ``generate``, in one process on one thread.

Both draw from the same random model with the same prompts, lengths and end tokens; ``generate`` gets its rows repeated
and left-padded. Ends are drawn with a chance of 1/64 per token (``hazard``) or never (``fixed``). Runs alternate and
the best of each counts, as a shared machine is noisy.

    python -m benchmarks.rollout --size s
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from lit_sdpo.rollouts.engine import NativeEngine
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.types import Sampling

SIZES = {
    # hidden, layers, query heads, key-value heads, head size, vocabulary, prompts, generations, prompt lengths, tokens
    "s": (96, 4, 4, 2, 24, 800, 6, 8, (12, 40), 64),
    "m": (384, 6, 6, 2, 64, 512, 8, 8, (32, 256), 128),
}
HAZARD = 1 / 64


def build(size: str, vocabulary: int | None) -> PreTrainedModel:
    hidden, layers, heads, kv_heads, head_size, words, *_ = SIZES[size]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary or words,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


class EndHazard(LogitsProcessor):
    """Gives token 0 the probability ``HAZARD``, for either engine."""

    def __call__(self, input_ids, scores):
        """Set the score of token 0 in place."""
        rest = scores[:, 1:].logsumexp(-1)
        scores[:, 0] = rest + torch.tensor(HAZARD / (1 - HAZARD)).log()
        return scores


def rate(run: Callable[[bool], int], ends: bool) -> float:
    """Useful tokens per CPU second of one run."""
    start = time.process_time()
    tokens = run(ends)
    return tokens / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="s")
    parser.add_argument("--tokens", type=int, help="longest completion")
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--generations", type=int)
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    *_, prompts, generations, (shortest, longest), tokens = SIZES[options.size]
    count, group = options.prompts or prompts, options.generations or generations
    sampling = Sampling(max_new_tokens=options.tokens or tokens)
    model = build(options.size, options.vocabulary)
    lengths = torch.linspace(shortest, longest, count).round().long().tolist()
    ids = [torch.randint(1, model.config.vocab_size, (n,)).tolist() for n in lengths]
    width = max(lengths)
    padded = torch.tensor([[0] * (width - len(x)) + x for x in ids]).repeat_interleave(group, 0)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths]).repeat_interleave(group, 0)
    seeds = sample_seeds(0, item_ids=[str(i) for i in range(count)], num_generations=group)
    hazard = EndHazard()

    def native(ends: bool) -> int:
        hook = model.register_forward_hook(lambda _, args, out: with_hazard(out)) if ends else None
        try:
            drawn = NativeEngine().generate(
                model,
                ids,
                num_generations=group,
                sampling=sampling,
                seeds=seeds,
                end_ids=[0] if ends else [],
                pad_id=0,
            )
        finally:
            if hook:
                hook.remove()
        return int(drawn.lengths.sum())

    def with_hazard(out):
        hazard(None, out.logits[:, -1])
        return out

    def transformers(ends: bool) -> int:
        drawn = model.generate(
            padded,
            attention_mask=mask,
            do_sample=True,
            max_new_tokens=sampling.max_new_tokens,
            top_k=0,
            pad_token_id=0,
            eos_token_id=0 if ends else None,
            logits_processor=LogitsProcessorList([hazard] if ends else []),
        )[:, width:]
        ended = (drawn == 0).int()
        return int((ended.cumsum(1) - ended == 0).sum()) if ends else drawn.numel()

    results: dict[str, object] = {
        "size": options.size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": count * group,
        "max_new_tokens": sampling.max_new_tokens,
        "vocabulary": model.config.vocab_size,
    }
    for name, ends in (("hazard", True), ("fixed", False)):
        pairs = [(rate(native, ends), rate(transformers, ends)) for _ in range(options.repeats)]
        ours, theirs = map(max, zip(*pairs, strict=True))
        results[name] = {"native": round(ours), "generate": round(theirs), "ratio": round(ours / theirs, 2)}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
