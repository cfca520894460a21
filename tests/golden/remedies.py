"""Golden cases of remedies, teachers and measures inside stages: one function per group, as in ``evaluate``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_sdpo import functional as F
from tests.golden import inputs as make
from tests.golden.evaluate import Case, Result, group, reduced


@group
def merge(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    pairs = list(zip(i["shapes"], i["tags"], strict=True))
    previous = [make.weights(shape, tag).to(dtype) for shape, tag in pairs]
    current = [make.moved_weights(shape, tag, i["eps"]).to(dtype) for shape, tag in pairs]
    if "strength" in p:
        strengths = [p["strength"]] * len(pairs)
        merged = F.merge_weights(previous, current, p["strength"])
    else:
        strengths = F.lines_strengths(p["alpha"], p["beta"], p["layers"], i["depths"])
        merged = F.merge_weights(previous, current, strengths)
    return {
        "strengths": strengths,
        "norms": [x.norm() for x in merged],
        "first": [x[0, 0] for x in merged],
        "last": [x[-1, -1] for x in merged],
        "row0": merged[0][0],
    }


@group
def bema(case: Case, dtype: torch.dtype) -> Result:
    i = case["inputs"]
    start = make.weights(i["shape"]).to(dtype)
    average, result = [start.clone()], [start]
    for step in range(1, i["steps"] + 1):
        student = make.ema_student(i["shape"], step - 1).to(dtype)
        result = F.bema_update_(average, [student], [start], step, **case["params"]) or result
    return {
        "norm": result[0].norm(),
        "first": result[0][0, 0],
        "last": result[0][-1, -1],
        "row0": result[0][0],
        "ema_norm": average[0].norm(),
        "ema_row0": average[0][0],
    }


@group
def online_ewc(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    fisher: list[Tensor] = []
    for stage in i["gradients"]:
        new = F.fisher_diagonal([torch.tensor(gradient, dtype=dtype)] for gradient in stage)
        fisher = F.decayed_fisher(fisher, new, p["gamma"]) if fisher else new
    weights = torch.tensor(i["weights"], dtype=dtype, requires_grad=True)
    penalty = F.ewc_penalty([weights], [torch.tensor(i["anchor"], dtype=dtype)], fisher, p["strength"])
    return {"fisher": fisher[0], "penalty": penalty, "grad": torch.autograd.grad(penalty, weights)[0]}


@group
def prompt_anchor(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    student, mask = make.student(i).to(dtype).requires_grad_(), make.active_mask(i)
    per_token = F.sdpo_loss(
        student, make.teacher(i).to(dtype), alpha=0.0, temperature=p.get("temperature", 1.0), mask=mask
    )
    loss = reduced(p["strength"] * per_token, mask, student, "token_mean")
    return {**loss, "per_token": per_token, "kl": F.aggregate(per_token, mask)}


def tables(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Reference, teacher and mask of a tilted target."""
    i = case["inputs"]
    return F.log_softmax(make.student(i).to(dtype)), F.log_softmax(make.teacher(i).to(dtype)), make.active_mask(i)


@group
def tilted_target(case: Case, dtype: torch.dtype) -> Result:
    reference, teacher, mask = tables(case, dtype)
    target = F.tilted_logprobs(reference, teacher, case["params"]["inverse_beta"])
    kl = F.divergence(target, reference, alpha=1.0, mask=mask)
    return {"logprobs": target[0, 0], "kl_per_token": kl, "kl": F.aggregate(kl, mask)}


@group
def tilt_budget(case: Case, dtype: torch.dtype) -> Result:
    reference, teacher, mask = tables(case, dtype)
    share = F.largest_tilt(reference, teacher, case["params"]["epsilon"], mask, case["params"]["level"])
    target = F.tilted_logprobs(reference, teacher, share)
    return {"inverse_beta": share, "kl": F.aggregate(F.divergence(target, reference, alpha=1.0), mask)}


@group
def distillation_advantage(case: Case, dtype: torch.dtype) -> Result:
    student, teacher, mask = tables(case, dtype)
    ids = make.ids(case["inputs"])[..., None]
    found = F.distillation_advantages(
        student.gather(-1, ids)[..., 0], teacher.gather(-1, ids)[..., 0], mask, **case["params"]
    )
    return {"advantages": found, "sequence_sums": found.sum(1), "token_mean": F.aggregate(found, mask)}


@group
def sequence_ratio(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    mask = make.active_mask(i)
    logp, old = make.logp(i).to(dtype), make.old(i, p.get("old_amp", 0.6)).to(dtype)
    loss = F.gspo_loss(logp, old, make.advantages(i).to(dtype), low=p["low"], high=p["high"], mask=mask)
    return {
        "ratios": F.sequence_ratios(logp, old, mask),
        "clipped_low": (loss.clipped_low & mask).any(1),
        "clipped_high": (loss.clipped_high & mask).any(1),
    }


@group
def continual_curves(case: Case, dtype: torch.dtype) -> Result:
    i, p = case["inputs"], case["params"]
    curves = torch.tensor([[math.nan if x is None else x for x in row] for row in i["curves"]], dtype=dtype)
    stages, steps, mode = torch.tensor(i["stages"]), torch.tensor(i["steps"]), p.get("mode", "max")
    by_task = {
        "windowed_forgetting": F.windowed_forgetting(curves, p["window"], mode),
        "windowed_plasticity": F.windowed_plasticity(curves, p["window"], mode),
        "stability_gap": F.stability_gap(curves, stages, mode),
    }
    return {
        **by_task,
        **{f"average_{name}": values.mean() for name, values in by_task.items()},
        "min_accuracy": F.min_accuracy(curves, stages, mode),
        "average_min_accuracy": F.average_min_accuracy(curves, stages, mode),
        "worst_case_accuracy": F.worst_case_accuracy(curves, stages, mode),
        "worst_case_accuracy_by_stage": F.worst_case_accuracy_by_stage(curves, stages, mode),
        "learning_curve_area": F.learning_curve_area(curves, stages, steps, mode),
    }


@group
def gradient_cosine(case: Case, dtype: torch.dtype) -> Result:
    a, b = ([torch.tensor(x, dtype=dtype) for x in case["inputs"][name]] for name in ("a", "b"))
    return F.gradient_cosine(a, b)._asdict()
