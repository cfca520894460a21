"""The parts of an update against the plain way: rows padded, all logits at once, no row left out.

``update``: forward and backward of the GRPO loss over 64 rows, packed with each prompt once per group, against padded
rows in micro-batches of one group; then with half of the groups at zero advantage. ``teacher``: log-probabilities under
SDPO's teacher, whose context is the prompt and 160 tokens more, for half of the rows. ``head``: head and loss from
hidden states, time and extra peak memory, each case in a fresh process. ``sampler``: one token for 64 rows.
``forwards``: forward passes of the student in an on-policy step of the Trainer, counted.

Losses, gradient norms and log-probabilities of the two sides have to agree to 1e-5, or the exit status is 1. A bar is
the figure that the ratio should reach: at least for a speed-up, at most where it is a share of the plain way's.

    python -m benchmarks.update
    python -m benchmarks.update --only head --tokens 512
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks import plain
from benchmarks.common import (
    best,
    extra_peak_mb,
    gemm_rate,
    in_fresh_process,
    now,
    parser,
    random_model,
    random_prompts,
    random_rows,
    report,
    rows_of,
    spread,
    use_threads,
    write_additions,
)
from lit_sdpo.functional import chunked_loss, group_advantages, ppo_loss, sdpo_loss, token_logprobs_from_logits
from lit_sdpo.policies.fused_layers import fuse
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import completion_hidden, scorer, weighted_loss
from lit_sdpo.rollouts.malloc import keep_freed_memory
from lit_sdpo.rollouts.sampling import sample, uniforms
from lit_sdpo.rollouts.types import Sampling

PARTS = ("update", "teacher", "head", "sampler", "forwards")
AGREEMENT = 1e-5
CONTEXT = 160


# -------------------------------------------------------------------------------------------------------------- update
def packed_loss(model: PreTrainedModel, sequences: Sequences, advantages: Tensor, total: int) -> Tensor:
    """GRPO's loss over the rows that can contribute, their prompts shared; ``total`` tokens are the denominator."""
    rows = rows_of(sequences, advantages.nonzero()[:, 0].tolist())
    mask = rows.completion_mask
    ids = rows.completion_ids[mask]
    per_token = advantages[advantages != 0][:, None].expand_as(mask)[mask]

    def token_losses(logits: Tensor, span: slice) -> Tensor:
        logprobs = token_logprobs_from_logits(logits, ids[span])
        return ppo_loss(logprobs, logprobs.detach(), per_token[span]).per_token / total

    return weighted_loss(model, completion_hidden(model, rows), token_losses)


def padded_loss(model: PreTrainedModel, sequences: Sequences, advantages: Tensor, total: int) -> Tensor:
    """The same over padded rows, all of them."""
    logits = plain.completion_logits(model, sequences)
    logprobs = plain.logprobs_of(logits, sequences.completion_ids)
    losses = plain.surrogate(logprobs, advantages[:, None])
    return (losses * sequences.completion_mask).sum() / total


def norm(model: PreTrainedModel) -> float:
    """Norm of the gradient."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def differ(a: float, b: float) -> float:
    """Relative difference."""
    return abs(a - b) / max(abs(a), abs(b), 1e-30)


def sizes(tiny: bool) -> tuple[str, int, int, tuple[int, int], int, int]:
    """Model, prompts, completions of each, prompt lengths, mean and longest completion."""
    return ("tiny", 4, 2, (4, 9), 4, 8) if tiny else ("m", 8, 8, (32, 256), 100, 256)


def models(size: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same model twice: as training loads it, and as Transformers makes it."""
    ours = random_model(size)
    fuse(ours)
    return ours, random_model(size)


def update(tiny: bool, repeats: int) -> list[dict[str, object]]:
    size, count, generations, (shortest, longest), mean, most = sizes(tiny)
    ours, theirs = models(size)
    vocabulary = ours.config.vocab_size
    rows = random_rows(
        random_prompts(spread(shortest, longest, count), vocabulary), generations, vocabulary, mean, most
    )
    groups = torch.arange(len(rows)) // generations
    rewards = torch.rand(len(rows), generator=torch.Generator().manual_seed(3))
    full = group_advantages(rewards, groups)
    half = group_advantages(torch.where(groups % 2 == 0, rewards, 1.0), groups)
    total = int(rows.completion_mask.sum())
    state: dict[str, tuple[float, float]] = {}

    def run_packed(name: str, advantages: Tensor) -> None:
        ours.zero_grad(set_to_none=True)
        loss = packed_loss(ours, rows, advantages, total)
        loss.backward()
        state[name] = float(loss.detach()), norm(ours)

    def run_padded(name: str, advantages: Tensor) -> None:
        theirs.zero_grad(set_to_none=True)
        loss = 0.0
        for group in range(count):
            some = list(range(group * generations, (group + 1) * generations))
            part = padded_loss(theirs, rows_of(rows, some), advantages[some], total)
            part.backward()
            loss += float(part.detach())
        state[name] = loss, norm(theirs)

    seconds = best(
        {
            "packed": lambda: run_packed("packed", full),
            "padded": lambda: run_padded("padded", full),
            "half packed": lambda: run_packed("half packed", half),
        },
        repeats,
    )
    run_padded("half padded", half)  # takes as long as with all groups
    made = []
    for case, packed, padded, bar in (
        ("update, all groups", "packed", "padded", 2.7),
        ("update, half of the groups flat", "half packed", "half padded", 5.0),
    ):
        (loss, size_), (plain_loss, plain_size) = state[packed], state[padded]
        made.append(
            {
                "case": case,
                "ours s": seconds[packed],
                "plain s": seconds["padded"],
                "speed-up": round(seconds["padded"] / seconds[packed], 2),
                "bar": f"≥ {bar}",
                # The loss of on-policy rows is a difference of large terms: compare with the gradient's size.
                "difference": max(abs(loss - plain_loss) / max(abs(plain_loss), 1e-3), differ(size_, plain_size)),
            }
        )
    return made


# ------------------------------------------------------------------------------------------------------------- teacher
def teacher(tiny: bool, repeats: int) -> list[dict[str, object]]:
    size, count, generations, (shortest, longest), mean, most = sizes(tiny)
    ours, theirs = models(size)
    vocabulary = ours.config.vocab_size
    extra = 5 if tiny else CONTEXT
    contexts = random_prompts([n + extra for n in spread(shortest, longest, count)], vocabulary)
    rows = random_rows(contexts, generations, vocabulary, mean, most)
    known = [n for n in range(len(rows)) if n % 2 == 0]
    found: dict[str, Tensor] = {}

    def run_packed() -> None:
        some = rows_of(rows, known)
        ids = some.completion_ids[some.completion_mask]
        score, values = scorer(ours, some), []
        for start in range(0, len(ids), 1024):
            span = slice(start, start + 1024)
            values.append(token_logprobs_from_logits(score(span), ids[span]))
        found["ours"] = torch.cat(values)

    @torch.no_grad()
    def run_padded() -> None:
        values = []
        for group in range(count):
            part = rows_of(rows, list(range(group * generations, (group + 1) * generations)))
            logprobs = plain.logprobs_of(plain.completion_logits(theirs, part), part.completion_ids)
            values += [x[m] for x, m in zip(logprobs, part.completion_mask, strict=True)]
        found["plain"] = torch.cat([values[n] for n in known])

    seconds = best({"ours": run_packed, "plain": run_padded}, repeats)
    return [
        {
            "case": "teacher, half of the rows with a context",
            "ours s": seconds["ours"],
            "plain s": seconds["plain"],
            "speed-up": round(seconds["plain"] / seconds["ours"], 2),
            "bar": "≥ 6",
            "difference": float(((found["ours"] - found["plain"]) / found["plain"]).abs().max()),
        }
    ]


# ---------------------------------------------------------------------------------------------------------------- head
def head_case(loss: str, side: str, vocabulary: int, tokens: int, hidden: int) -> dict[str, float]:
    """Head and loss with their gradients, once, in this process."""
    torch.manual_seed(0)
    weight = (torch.randn(vocabulary, hidden) / math.sqrt(hidden)).requires_grad_()
    states = torch.randn(tokens, hidden, requires_grad=True)
    others = torch.randn(tokens, hidden)
    ids, advantages = torch.randint(vocabulary, (tokens,)), torch.randn(tokens)

    def token_losses(logits: Tensor, span: slice) -> Tensor:
        if loss == "grpo":
            logprobs = token_logprobs_from_logits(logits, ids[span])
            return ppo_loss(logprobs, logprobs.detach(), advantages[span]).per_token
        with torch.no_grad():
            target = others[span] @ weight.T
        return sdpo_loss(logits, target, top_k=100 if loss == "top-100" else None)

    def ours() -> Tensor:
        keep_freed_memory()  # as training does
        return chunked_loss(states, weight, torch.full((tokens,), 1 / tokens), token_losses)[0]

    def naive() -> Tensor:
        logits = states @ weight.T
        if loss == "grpo":
            return plain.surrogate(plain.logprobs_of(logits, ids), advantages).mean()
        with torch.no_grad():
            target = others @ weight.T
        return plain.jensen_shannon(logits, target).mean()

    run, result = {"ours": ours, "plain": naive}[side], {}

    def once() -> None:
        start = now()
        value = run()
        value.backward()
        result["seconds"], result["loss"] = now() - start, float(value.detach())

    result["peak"] = extra_peak_mb(once)
    assert weight.grad is not None
    assert states.grad is not None
    return {**result, "dW": float(weight.grad.norm()), "dh": float(states.grad.norm())}


def head(tiny: bool, repeats: int, tokens: int | None, threads: int) -> list[dict[str, object]]:
    made = []
    cases = [(1000, 64)] if tiny else [(32_768, 2048), (151_936, 1024)]
    for vocabulary, count in cases:
        for loss in ("grpo", "jsd"):
            n, hidden = tokens or count, 32 if tiny else 384
            runs: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
            for _ in range(repeats):
                for side, done in runs.items():
                    case = json.dumps([loss, side, vocabulary, n, hidden])
                    done.append(
                        in_fresh_process(
                            "benchmarks.update", "--case", case, "--threads", str(threads), threads=threads
                        )
                    )
            low = {side: {k: min(x[k] for x in done) for k in ("seconds", "peak")} for side, done in runs.items()}
            first, second = runs["ours"][0], runs["plain"][0]
            share = {k: low["ours"][k] / max(low["plain"][k], 1e-9) for k in ("seconds", "peak")}
            bar = "≤ 0.3" if loss == "grpo" else "≤ 0.15"
            row: dict[str, object] = {
                "case": f"{loss} head, V {vocabulary:,}, {n} tokens",
                "ours s": low["ours"]["seconds"],
                "plain s": low["plain"]["seconds"],
                "time share": round(share["seconds"], 2),
                "bar": "≤ 0.7",
                "ours MiB": round(low["ours"]["peak"]),
                "plain MiB": round(low["plain"]["peak"]),
                "memory share": round(share["peak"], 3),
                "memory bar": bar if vocabulary > 100_000 else "",
                "difference": max(differ(first[k], second[k]) for k in ("loss", "dW", "dh")),
            }
            products = 6 if loss == "grpo" else 8  # forward and two gradients; the teacher's forward
            bound = products * n * vocabulary * hidden / gemm_rate()
            row["share of bound"] = round(bound / low["ours"]["seconds"], 2)
            made.append(row)
    return made


# ------------------------------------------------------------------------------------------------------------- sampler
def sampler(tiny: bool, repeats: int) -> list[dict[str, object]]:
    made = []
    rows = 64
    for vocabulary in (1000,) if tiny else (32_768, 151_936):
        logits = torch.randn(rows, vocabulary)
        scratch, numbers = torch.empty(rows * (vocabulary + 256)), uniforms(torch.arange(rows), 0)
        count = 1 if tiny else 5
        rounds = repeats if tiny else 4 * repeats  # a call is short: a neighbour easily spoils all of a few

        def ours(
            logits: Tensor = logits, numbers: Tensor = numbers, scratch: Tensor = scratch, count: int = count
        ) -> None:
            for _ in range(count):
                sample(logits, Sampling(), numbers, scratch=scratch)

        def theirs(logits: Tensor = logits, count: int = count) -> None:
            for _ in range(count):
                torch.multinomial(torch.softmax(logits, -1), 1)

        seconds = {k: x / count for k, x in best({"ours": ours, "plain": theirs}, rounds).items()}
        made.append(
            {
                "case": f"sampler, V {vocabulary:,}, {rows} rows",
                "ours s": seconds["ours"],
                "plain s": seconds["plain"],
                "speed-up": round(seconds["plain"] / seconds["ours"], 2),
                "bar": "≥ 12",
            }
        )
    return made


# ------------------------------------------------------------------------------------------------------------ forwards
def forwards() -> list[dict[str, object]]:
    """Count calls of the policy's decoder in one step each of GRPO and SDPO, those of the engine apart."""
    from benchmarks.step import Session, arguments
    from lit_sdpo.policies.scoring import decoder

    made = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_additions(folder)
        for method in ("grpo", "sdpo"):
            line = f"--model micro --data {data} --method {method} --steps 1 --prompts-per-step 2"
            line += " --num-generations 4 --max-completion-length 8 --reward coin:0.5"
            session = Session(arguments().parse_args(line.split()))
            count = {"with gradient": 0, "without": 0}
            engine, generating = session.engine, [False]
            generate: Callable[..., Any] = engine.generate

            def guarded(*args: Any, generate: Any = generate, generating: Any = generating, **kwargs: Any) -> Any:
                generating[0] = True
                try:
                    return generate(*args, **kwargs)
                finally:
                    generating[0] = False

            def seen(_module: object, _inputs: object, count: Any = count, generating: Any = generating) -> None:
                if not generating[0]:
                    count["with gradient" if torch.is_grad_enabled() else "without"] += 1

            engine.generate = guarded  # type: ignore[method-assign]
            decoder(session.module.policy).register_forward_pre_hook(seen)
            session.fit()
            made.append(
                {
                    "case": f"{method} step, student forwards with gradient (without)",
                    "count": f"{count['with gradient']} ({count['without']})",
                    "bar": "exactly 1",
                    "difference": float(abs(count["with gradient"] - 1)),
                }
            )
    return made


def main() -> None:
    options = parser(__doc__, repeats=2)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--tokens", type=int, help="tokens of the head's cases")
    options.add_argument("--case", type=json.loads, help="one case of the head, as the fresh process gets it")
    given = options.parse_args()
    use_threads(given.threads)
    if given.case:
        print(json.dumps(head_case(*given.case)))
        return
    measure: dict[str, Callable[[], list[dict[str, object]]]] = {
        "update": lambda: update(given.tiny, given.repeats),
        "teacher": lambda: teacher(given.tiny, given.repeats),
        "head": lambda: head(given.tiny, given.repeats, given.tokens, given.threads),
        "sampler": lambda: sampler(given.tiny, given.repeats),
        "forwards": forwards,
    }
    rows = [row for part in PARTS if part in given.only for row in measure[part]()]
    equal = all(float(row.get("difference", 0.0)) <= AGREEMENT for row in rows)  # type: ignore[arg-type]
    report("update", rows, threads=given.threads, equal=equal)
    print(f"both sides {'agree' if equal else 'DO NOT agree'} to {AGREEMENT:g}", file=sys.stderr)
    sys.exit(not equal)


if __name__ == "__main__":
    main()
