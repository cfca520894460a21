"""Peak memory of a step beyond the model, by method, vocabulary and rows: ours against the plain way, and the estimate.

A step samples 64 tokens for every row, scores them and takes an AdamW step; each case runs in a fresh process that has
the model (and SDPO's teacher, a copy) in memory before the count begins. ``estimate`` is what
:mod:`lit_sdpo.policies.memory` counts for the same tokens without running anything: gradients, the optimizer's
averages, and the larger of the rollouts' keys and values or the activations; the program's own buffers and what the
allocator keeps come on top of it. GRPO needs log-probabilities, SDPO the Jensen-Shannon divergence over the vocabulary.

    python -m benchmarks.memory
"""

from __future__ import annotations

import copy
import json

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks import plain
from benchmarks.common import (
    extra_peak_mb,
    in_fresh_process,
    parser,
    random_model,
    random_prompts,
    report,
    spread,
    use_threads,
)
from benchmarks.rollout import native
from lit_sdpo.functional import ppo_loss, sdpo_loss, token_logprobs_from_logits
from lit_sdpo.policies.fused_layers import fuse
from lit_sdpo.policies.memory import Block, StepCount, Window
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import completion_hidden, scorer, weighted_loss

GENERATIONS = 8
CONTEXT = 80
"""Tokens that the teacher's prompt has more than the student's."""


def losses_of_ours(
    policy: PreTrainedModel, teacher: PreTrainedModel | None, rows: Sequences, context: Sequences, advantages: Tensor
) -> Tensor:
    """The loss through packed rows and chunks of logits."""
    mask = rows.completion_mask
    ids, per_token = rows.completion_ids[mask], advantages[:, None].expand_as(mask)[mask]
    target = None if teacher is None else scorer(teacher, context)

    def token_losses(logits: Tensor, span: slice) -> Tensor:
        if target is not None:
            return sdpo_loss(logits, target(span)) / len(ids)
        logprobs = token_logprobs_from_logits(logits, ids[span])
        return ppo_loss(logprobs, logprobs.detach(), per_token[span]).per_token / len(ids)

    return weighted_loss(policy, completion_hidden(policy, rows), token_losses)


def losses_of_plain(
    policy: PreTrainedModel, teacher: PreTrainedModel | None, rows: Sequences, context: Sequences, advantages: Tensor
) -> Tensor:
    """The loss through padded rows and all their logits."""
    mask = rows.completion_mask
    logits = plain.completion_logits(policy, rows)
    if teacher is None:
        losses = plain.surrogate(plain.logprobs_of(logits, rows.completion_ids), advantages[:, None])
    else:
        with torch.no_grad():
            target = plain.completion_logits(teacher, context)
        losses = plain.jensen_shannon(logits, target)
    return (losses * mask).sum() / mask.sum()


def measure(side: str, method: str, size: str, vocabulary: int, prompts: int, tokens: int) -> dict[str, float]:
    """One step in this process: MiB beyond the model, and the estimate."""
    policy = random_model(size, vocabulary)
    ids = random_prompts(spread(16, 64, prompts), vocabulary)
    if side == "ours":
        fuse(policy)
    teacher = copy.deepcopy(policy).requires_grad_(False) if method == "sdpo" else None
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    mask = torch.ones(prompts * GENERATIONS, tokens, dtype=torch.bool)
    advantages = torch.randn(len(mask))
    result: dict[str, float] = {}

    def step() -> None:
        if side == "ours":
            drawn = native(policy, ids, GENERATIONS, tokens).ids
        else:
            drawn = torch.randint(1, vocabulary, mask.shape)
            plain.generate(policy, ids, GENERATIONS, tokens)
        students = [p for p in ids for _ in range(GENERATIONS)]
        rows = Sequences(students, drawn, mask)
        context = Sequences([[*p, *p[:1] * CONTEXT] for p in students], drawn, mask)
        losses = losses_of_ours if side == "ours" else losses_of_plain
        loss = losses(policy, teacher, rows, context, advantages)
        loss.backward()
        optimizer.step()
        result["loss"] = float(loss.detach())

    policy.train()
    longest = max(map(len, ids))
    window = Window(
        prompts, len(mask), longest, tokens, read=True, blocks=(Block(prompts, len(mask), longest, tokens),)
    )
    held = nn.ModuleList([policy] if teacher is None else [policy, teacher])
    estimate = StepCount(held, policy, window).of(1)
    policy.eval()
    models = sum(p.numel() * p.element_size() for p in held.parameters()) / 2**20
    result["estimate"], result["weights"] = estimate.peak / 2**20 - models, models
    result["peak"] = extra_peak_mb(step)
    return result


def main() -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--case", type=json.loads, help="one case, as the fresh process gets it")
    options.add_argument("--size", default="s")
    given = options.parse_args()
    use_threads(given.threads)
    if given.case:
        print(json.dumps(measure(*given.case)))
        return
    size = "tiny" if given.tiny else given.size
    tokens = 4 if given.tiny else 64
    cases = [(512, 1)] if given.tiny else [(512, 8), (32_768, 2), (32_768, 8)]
    rows = []
    for method in ("grpo", "sdpo"):
        for vocabulary, prompts in cases:
            found = {
                side: in_fresh_process(
                    "benchmarks.memory",
                    "--case",
                    json.dumps([side, method, size, vocabulary, prompts, tokens]),
                    "--threads",
                    str(given.threads),
                    threads=given.threads,
                )
                for side in ("ours", "plain")
            }
            ours, theirs = found["ours"]["peak"], found["plain"]["peak"]
            rows.append(
                {
                    "method": method,
                    "vocabulary": vocabulary,
                    "rows": prompts * GENERATIONS,
                    "model MiB": round(found["ours"]["weights"], 1),
                    "ours MiB": round(ours),
                    "plain MiB": round(theirs),
                    "share": round(ours / max(theirs, 1e-9), 2),
                    "bar": "≤ 0.25" if vocabulary == 32_768 else "",
                    "estimate MiB": round(found["ours"]["estimate"]),
                    "measured ÷ estimate": round(ours / found["ours"]["estimate"], 2),
                }
            )
    report("memory", rows, size=size, tokens=tokens, threads=given.threads)


if __name__ == "__main__":
    main()
