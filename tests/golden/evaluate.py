"""One function per group of golden cases: rebuild the inputs, call the package, name the results as the file does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_sdpo import functional as F
from lit_sdpo.rollouts import demonstrations
from tests.golden import inputs as make

Case = dict[str, Any]
Result = dict[str, Any]
GROUPS: dict[str, Callable[[Case, torch.dtype], Result]] = {}

#: Groups of the file format that the package has no function for.
NOT_COVERED: set[str] = set()


def not_covered(case: Case) -> str | None:
    """The case's group, if the package has no function for it."""
    return str(case["group"]) if case["group"] in NOT_COVERED else None


def group(function: Callable[[Case, torch.dtype], Result]) -> Callable[[Case, torch.dtype], Result]:
    GROUPS[function.__name__] = function
    return function


def reduced(per_token: Tensor, mask: Tensor, wrt: Tensor, agg: str, fixed_length: int | None = None) -> Result:
    """Loss and gradient of per-token losses."""
    loss = F.aggregate(per_token, mask, agg, fixed_length=fixed_length)
    (grad,) = torch.autograd.grad(loss, wrt)
    return {
        "loss": loss,
        "per_token": per_token.masked_fill(~mask, 0),
        "active_tokens": int(mask.sum()),
        "grad": grad,
        "grad_norm": grad.norm(),
        "grad_abs_max": grad.abs().max(),
    }


def mismatch(case: Case, options: dict[str, Any] | None, dtype: torch.dtype, old_amp: float = 0.6) -> Tensor | float:
    if options is None:
        return 1.0
    i = case["inputs"]
    return F.mismatch_weights(
        make.old(i, old_amp).to(dtype),
        make.rollout(i).to(dtype),
        level=options.get("level", "token"),
        mode=options.get("mode", "truncate"),
        cap=options.get("cap", math.inf),
        floor=options.get("floor", 0.0),
        mask=make.response_mask(i),
    )


@group
def sdpo(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    student = make.student(i).to(dtype).requires_grad_()
    teacher, ids, mask = make.teacher(i).to(dtype), make.ids(i), make.active_mask(i)
    if "trust_region_mix" in p:
        teacher = F.mix_logits(make.third(i).to(dtype), teacher, p["trust_region_mix"])
    temperature = p.get("temperature", 1.0)
    old = None
    if p.get("is_clip") is not None:
        exact = F.token_logprobs_from_logits(make.student(i), ids, temperature)
        old = (exact + make.offset(i, p.get("is_offset_amp", 0.0))).to(dtype)
    per_token = F.sdpo_loss(
        student,
        teacher,
        ids,
        alpha=None if p.get("mode") == "sampled" else p["alpha"],
        top_k=p.get("topk"),
        tail=p.get("tail", False),
        temperature=temperature,
        old_logprobs=old,
        importance_clip=p.get("is_clip"),
        mask=mask,
    )
    per_token = per_token * mismatch(case, p.get("mismatch"), dtype)
    return reduced(per_token, mask, student, p.get("agg", "token_mean"), p.get("fixed_length"))


@group
def policy(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    mask, old_amp = make.active_mask(i), p.get("old_amp", 0.6)
    logp = make.logp(i).to(dtype).requires_grad_()
    old, adv = make.old(i, old_amp).to(dtype), make.advantages(i).to(dtype)
    clipped: Result = {}
    if case["loss"] == "kl_only":
        per_token = F.kl_penalty(logp, make.ref(i).to(dtype), p["kind"], mask=mask)
    else:
        function = {"ppo": F.ppo_loss, "gspo": F.gspo_loss, "cispo": F.cispo_loss}[case["loss"]]
        options = {k: v for k, v in p.items() if k in ("low", "high", "dual", "ratio_min", "ratio_max")}
        loss = function(logp, old, adv, mask=mask, **options)
        per_token = loss.per_token * mismatch(case, case.get("mismatch"), dtype, old_amp)
        active = mask.sum().clamp(min=1)
        clipped = {
            "clip_fraction_low": (loss.clipped_low & mask).sum() / active.to(dtype),
            "clip_fraction_high": (loss.clipped_high & mask).sum() / active.to(dtype),
        }
    if case.get("kl"):
        penalty = F.kl_penalty(logp, make.ref(i).to(dtype), case["kl"]["kind"], mask=mask)
        per_token = per_token + case["kl"]["beta"] * penalty
    return reduced(per_token, mask, logp, case.get("agg", "token_mean"), case.get("fixed_length")) | clipped


@group
def mismatch_weight(case: Case, dtype: torch.dtype) -> Result:
    return {"weights": mismatch(case, case["params"], dtype, case["params"].get("old_amp", 0.6))}


@group
def filtered_logprobs(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    logits = make.student(i).to(dtype)
    found = F.filtered_logprobs(logits.flatten(0, 1), torch.tensor(i["ids"]).flatten(), **p)
    kept = logits >= F.lowest_kept(logits.flatten(0, 1), **p).view(i["B"], i["T"], 1)
    return {
        "full_logprobs": found.full.view(i["B"], i["T"]),
        "logprobs": found.filtered.view(i["B"], i["T"]),
        "kept_mass": found.log_kept_mass.exp().view(i["B"], i["T"]),
        "kept_tokens": kept.sum(-1),
    }


@group
def advantage(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    names = {name: n for n, name in enumerate(dict.fromkeys(i["groups"]))}
    groups = torch.tensor([names[g] for g in i["groups"]], dtype=torch.long)
    rewards = torch.tensor([math.nan if r is None else r for r in i["rewards"]], dtype=dtype)
    return {"advantages": F.group_advantages(rewards, groups, p["kind"], eps=p.get("eps", 1e-6))}


@group
def continual(case: Case, dtype: torch.dtype) -> Result:
    R = torch.tensor([[math.nan if x is None else x for x in row] for row in case["inputs"]["R"]], dtype=dtype)
    mode = case.get("params", {}).get("mode", "max")
    result: Result = {
        "average_accuracy": F.average_accuracy(R),
        "learning_accuracy": F.learning_accuracy(R),
        "base_average": F.base_average(R),
        "seen_average_by_stage": F.seen_average_by_stage(R),
        "all_average_by_stage": F.all_average_by_stage(R),
        "bwt": F.backward_transfer(R, mode=mode),
        "fwt": F.forward_transfer(R, mode=mode),
        "forgetting": F.forgetting(R, mode=mode),
        "forgetting_with_base": F.forgetting(R, with_base=True, mode=mode),
        "forgetting_from_own_stage": F.forgetting(R, from_own_stage=True, mode=mode),
        "forgetting_by_stage": F.forgetting_by_stage(R, mode=mode),
    }
    if case["inputs"].get("joint") is not None:
        joint = torch.tensor([math.nan if x is None else x for x in case["inputs"]["joint"]], dtype=dtype)
        result["intransigence"] = F.intransigence(R, joint, mode)
    return result


@group
def multiple_choice(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    rows = [torch.tensor(row, dtype=dtype) for row in i["loglikelihoods"]]
    return F.multiple_choice_scores(rows, i["choices"], i["gold"])


@group
def perplexity(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    logprobs = [torch.tensor(row, dtype=dtype) for row in i["token_logprobs"]]
    return F.text_likelihood(logprobs, [len(text.encode()) for text in i["texts"]])


@group
def transitions(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    got = F.transitions(torch.tensor(i["pre"], dtype=dtype), torch.tensor(i["post"], dtype=dtype), i.get("choices"))
    names = {
        "accuracy_before": "acc_pre",
        "accuracy_after": "acc_post",
        "forgetting": "forgetting_1to0",
        "backward_transfer": "backward_transfer_0to1",
        "forgotten_share": "forgotten_share_of_known",
        "kept": "kept_1to1",
        "never": "never_0to0",
    }
    return {names.get(key, key): value for key, value in got.items()}


@group
def drift(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    pairs = list(zip(i["shapes"], i["tags"], strict=True))
    before = [make.weights(shape, tag).to(dtype) for shape, tag in pairs]
    after = [make.moved_weights(shape, tag, i["eps"]).to(dtype) for shape, tag in pairs]
    change = F.weight_change(before, after, eta=p.get("eta", 1e-3), atol=p.get("atol", 1e-5))
    names = ("relative_l2", "l2", "bf16_sparsity", "relative_eta_sparsity", "absolute_sparsity", "max_abs_change")
    return {name: getattr(change, name) for name in names}


@group
def subspace(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    before = make.weights(i["shape"], i["tag"]).to(dtype)
    got = F.subspace_change(before, make.moved_weights(i["shape"], i["tag"], i["eps"]).to(dtype), case["params"]["r"])
    return {
        **got._asdict(),
        "left_max": got.left_angles.max(),
        "right_max": got.right_angles.max(),
        "gap_at_r": got.gap,
    }


@group
def mmd(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    x, y = (make.features(n, i["d"], tag).to(dtype) for n, tag in zip((i["n"], i["m"]), i["tags"], strict=True))
    value, sigma = F.squared_mmd(x, y, sigma=case["params"].get("sigma"))
    return {"mmd2": value, "sigma": sigma}


@group
def kl_estimate(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    p, q = F.log_softmax(make.student(i).to(dtype)), F.log_softmax(make.teacher(i).to(dtype))
    ids, mask = make.ids(i)[..., None], make.active_mask(i)
    return {
        "kl_p_q": F.aggregate(F.divergence(p, q, alpha=1.0), mask),
        "kl_q_p": F.aggregate(F.divergence(p, q, alpha=0.0), mask),
        "total_variation": F.aggregate(F.total_variation(p, q), mask),
        **F.kl_estimates(p.gather(-1, ids)[..., 0], q.gather(-1, ids)[..., 0], mask),
    }


@group
def entropy(case: Case, dtype: torch.dtype) -> Result:
    mask = make.active_mask(case["inputs"])
    per_token = F.entropy(make.student(case["inputs"]).to(dtype), case.get("params", {}).get("temperature", 1.0))
    return {"per_token": per_token.masked_fill(~mask, 0), "token_mean": F.aggregate(per_token, mask)}


@group
def ngram(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    before, after = make.documents(i, i["a_before"]), make.documents(i, i["a_after"])
    ratio = F.ngram_ratio(before, after, p["order"], p.get("smoothing", 1.0))
    return {"ratio": {" ".join(map(str, gram)): value for gram, value in ratio.items()}}


@group
def ema(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    teacher = make.weights(i["shape"]).to(dtype)
    for step in range(i["steps"]):
        F.ema_update_([teacher], [make.ema_student(i["shape"], step).to(dtype)], case["params"]["rate"])
    return {"norm": teacher.norm(), "first": teacher[0, 0], "last": teacher[-1, -1], "row0": teacher[0]}


@group
def strip_thinking(case: Case, dtype: torch.dtype) -> Result:
    return {"text": demonstrations.strip_thinking(case["inputs"]["text"])}


@group
def context(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    n = len(i["rewards"])
    names = {name: k for k, name in enumerate(dict.fromkeys(i["groups"]))}
    allowed = demonstrations.allowed_demonstrations(
        torch.tensor([math.nan if r is None else r for r in i["rewards"]], dtype=dtype),
        torch.tensor([names[g] for g in i["groups"]]),
        success_threshold=p.get("threshold", 1.0),
        truncated=torch.tensor(i.get("truncated") or [False] * n),
        allow_truncated=not p.get("exclude_truncated", False),
        allow_own=not p.get("exclude_self", True),
    )
    feedback = (i.get("feedback") or [None] * n) if p.get("use_feedback", True) else [None] * n
    shown = demonstrations.uses_feedback(
        feedback,
        [bool(candidates) for candidates in allowed],
        only_without_demonstration=p.get("feedback_only_without_solution", True),
    )
    mask = [int(bool(candidates) or used) for candidates, used in zip(allowed, shown, strict=True)]
    return {"allowed_demos": allowed, "uses_feedback": shown, "teacher_mask": mask}


@group
def excess_kl(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    policy, base = (torch.tensor(i[name], dtype=dtype) for name in ("policy", "base"))
    success = torch.tensor(i["success"])
    alpha, z = policy[success].sum(), base[success].sum()
    return {
        "success_rate": alpha,
        "base_success_rate": z,
        "kl": F.kl(policy, base),
        "binary_kl": F.binary_kl(alpha, z),
        "razor": F.razor_policy(base, success, alpha),
        "excess_reverse_kl": F.excess_reverse_kl(policy, base, success),
        "excess_forward_kl": F.excess_forward_kl(policy, base, success),
    }
