"""What a run will need: completions of its evaluations, memory of a step, disk for its checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lit_sdpo.callbacks.checkpoint import StageCheckpoint
from lit_sdpo.callbacks.memory import MemoryBudget
from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.diagnosis.machine import free_memory
from lit_sdpo.folders import folder_of_logger, runs_root
from lit_sdpo.planning.stream import evaluation_of
from lit_sdpo.policies.memory import UNCOUNTABLE, checkpoint_bytes
from lit_sdpo.units import size

if TYPE_CHECKING:
    from lit_sdpo.diagnosis.configuration import Run


def evaluation(run: Run) -> Iterator[Finding]:
    """Completions of evaluations against those of training."""
    data = run.data
    found = evaluation_of(data, run.rollout)
    sampled = run.module.learns_from == "policy"
    trained = sum(stage.steps * stage.prompts_per_step for stage in data.stages) // data.updates_per_rollout
    trained *= run.rollout.num_generations if sampled else 0
    share = found.completions / max(found.completions + trained, 1)
    text = (
        f"{found.count} evaluations of {len(found.prompts)} tasks and probes, {sum(found.prompts.values()):,} prompts x"
        f" {data.eval_generations}, up to {run.rollout.evaluation_sampling.max_new_tokens:,} tokens each:"
        f" {found.completions:,} completions, {share:.0%} of all that the run samples"
    )
    much = sampled and share > 0.5
    fix = "lower data.eval_prompts or data.eval_generations, or raise data.eval_every" if much else ""
    yield Finding("evaluation", "note" if much else "ok", text, fix)


def memory(run: Run) -> Iterator[Finding]:
    """The estimate for a step against what is free."""
    policy, trainer = run.policy, run.trainer
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    budget = next((c for c in callbacks if isinstance(c, MemoryBudget)), MemoryBudget())
    device = trainer.strategy.root_device
    try:
        found = budget.memory(trainer, run.module, run.rollout)
    except UNCOUNTABLE as error:
        text = f"of {type(policy).__name__} it cannot be estimated ({' '.join(str(error).split())[:120]})"
        yield Finding("memory of a step", "note", text)
        return
    need = found.peak
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    text = f"at most about {found}"
    if free is None or need <= free:
        yield Finding("memory of a step", "ok", text + (f"; {size(free)} are free" if free is not None else ""))
        return
    fix = "raise trainer.accumulate_grad_batches or set memory.gib, model.gradient_checkpointing, model.lora or a dtype"
    state = "problem" if sum(found.resident.values()) > free else "note"
    yield Finding("memory of a step", state, f"{text}; only {size(free)} are free", fix)  # type: ignore[arg-type]


def checkpoints(run: Run) -> Iterator[Finding]:
    """Room for the checkpoints that are kept, and whether the folder can be written to."""
    folder = folder_of_logger(run.trainer) or runs_root(run.trainer)
    callbacks: list[Any] = run.trainer.callbacks  # type: ignore[attr-defined]
    saving = next((callback for callback in callbacks if isinstance(callback, StageCheckpoint)), None)
    if run.trainer.fast_dev_run or saving is None:  # type: ignore[attr-defined]
        yield Finding("checkpoints", "note", "this run saves none")
        return
    each = checkpoint_bytes(run.module, run.policy, run.module.float32_masters)
    kept = len(run.data.stages) if saving.keep == -1 else min(saving.keep, len(run.data.stages))
    kept += saving.keep_steps if saving.every_n_steps else 0
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    need = (kept + 1) * each  # the next one is written before an old one goes
    text = (
        f"about {size(each)} each, {kept} kept: {size(need)} with the one being written; {size(free)} free in {place}"
    )
    if not os.access(place, os.W_OK):
        yield Finding("checkpoints", "problem", f"no permission to write to {place}", "choose another folder")
    elif need > free:
        yield Finding("checkpoints", "problem", text, "free some space, or set checkpoint.keep")
    else:
        yield Finding("checkpoints", "ok", text)
