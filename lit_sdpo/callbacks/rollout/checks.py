"""What keeps a run from having rollouts: found before its first step, but for verifiers that fail in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from lit_sdpo.callbacks.likelihood import LikelihoodEvaluation
from lit_sdpo.data.base import TaskStream, stream_of
from lit_sdpo.errors import UserError
from lit_sdpo.functional.filters import TRANSFORMERS_ORDER
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.ranges import OutOfRangeError, check_number
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rewards.failures import FailureLimit, count_failures
from lit_sdpo.rollouts.engines.base import RolloutEngine
from lit_sdpo.rollouts.generate import BUILT_IN, column_names


def learns_from_references(module: RolloutModule) -> bool:
    """Whether it learns from reference answers instead of the policy's own."""
    return module.learns_from == "reference"


def check_module(module: pl.LightningModule) -> RolloutModule:
    """The module, if completions can be made with it at all.

    Raises:
        UserError: It is of another kind, or has no policy or no tokenizer.
    """
    if not isinstance(module, RolloutModule):
        raise UserError(
            f"{type(module).__name__} is no module that rollouts are made for",
            where="model",
            fix="derive it from lit_sdpo.RolloutModule, whose docstring says what it has to give",
        )
    for name in ("policy", "tokenizer"):
        if not hasattr(module, name):
            raise UserError(f"{type(module).__name__} has no attribute {name!r}, which rollouts need", where="model")
    return module


def check_engine(engine: object) -> None:
    """Whether it says what a run needs to know of it, which a class that has the right method alone does not.

    Raises:
        UserError: It is no subclass of the base class, or its order of filters is none.
    """
    if not isinstance(engine, RolloutEngine):
        raise UserError(
            f"{type(engine).__name__} is no rollout engine",
            where="rollout.engine",
            fix="derive it from lit_sdpo.RolloutEngine, whose docstring says what an engine has to give",
        )
    if sorted(engine.filter_order) != sorted(TRANSFORMERS_ORDER):
        raise UserError(
            f"the filter_order of {type(engine).__name__} is {list(engine.filter_order)}",
            where="rollout.engine",
            fix=f"name each of {', '.join(TRANSFORMERS_ORDER)} once",
        )


def check_correction(engine: RolloutEngine, module: RolloutModule) -> None:
    """Whether ratios to the engine are other ratios than those to the policy.

    Raises:
        UserError: The policy itself samples, or nothing does.
    """
    if learns_from_references(module) or not engine.mismatched:
        who = (
            "nothing is sampled"
            if learns_from_references(module)
            else f"{type(engine).__name__} samples with the policy itself"
        )
        raise UserError(
            f"ratio compares policy and engine, and {who}",
            where="rollout.correction",
            fix="leave it out, or give rollout.engine a server",
        )


def check_clipping(trainer: pl.Trainer) -> None:
    """Whether clipping leaves gradients that point where they did; Lightning takes 0 and less for none without a word.

    Raises:
        UserError: The largest norm or value is no number above 0.
    """
    try:
        check_number("gradient_clip_val", trainer.gradient_clip_val, above=0, optional=True)
    except OutOfRangeError as error:
        raise UserError(error.what, where="trainer.gradient_clip_val", fix="give null for no clipping") from error


def check_replay(trainer: pl.Trainer, module: RolloutModule, resample_rounds: int) -> None:
    """Earlier prompts without a term that learns from them, or the other way round, would do nothing.

    Raises:
        UserError: One is asked for without the other.
    """
    share = stream_of(trainer).replay_share
    if learns_from_references(module) and (share or resample_rounds):
        raise UserError(
            "a method that learns from reference answers samples no completions to replay or to replace",
            where="data.replay_share" if share else "rollout.resample_rounds",
            fix="set it to 0",
        )
    if bool(share) != module.learns_from_replay:
        raise UserError(
            "replay needs both the data module's replay_share and a term that uses it: the module's replay_coefficient,"
            " prompt_anchor_coefficient or continual_mopd_coefficient",
            where="model.replay_coefficient" if share else "data.replay_share",
            fix="set both above 0, or neither",
        )


def check_rewards(rewards: WeightedRewards, data: TaskStream, module: RolloutModule, stage: str) -> None:
    """Whether something judges every row, and every reward gets the columns that it asks for.

    Raises:
        UserError: Naming the task.
    """
    for task, split, rows in data.row_sets(stage):
        if split == "train" and learns_from_references(module):
            continue
        found, where = rows(), f"task {task.name} ({split})"
        if len(found):
            rewards.require((*BUILT_IN, *column_names(found)), where=where)
        if not rewards.further and (unjudged := next((row for row in found if not task.judges(row)), None)):
            raise UserError(
                f"row {unjudged.id!r} has no verifier, and there are no rewards",
                where=where,
                fix="name a verifier of the task (verifier: math_boxed), or functions that reward its completions"
                " (rollout.rewards: my_module.my_function)",
            )


def check_likelihood(trainer: pl.Trainer) -> None:
    """Whether something scores the tasks that nothing is generated for.

    Raises:
        UserError: There are some, and no callback that does.
    """
    asked = stream_of(trainer).likelihood
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if asked and not any(isinstance(callback, LikelihoodEvaluation) for callback in callbacks):
        fix = "add lit_sdpo.callbacks.LikelihoodEvaluation() to the Trainer's callbacks"
        raise UserError("nothing scores the tasks of likelihood", where="data.likelihood", fix=fix)


def check_overlap(engine: RolloutEngine, module: RolloutModule, resample_rounds: int) -> None:
    """Whether completions can be asked for before they are needed.

    Raises:
        UserError: The engine shares its weights or its GPU with the update, nothing is sampled, or what is asked
            depends on rewards that are not there yet.
    """
    reason, fix = None, "set it to false"
    if not engine.can_ask_ahead:
        reason = f"{type(engine).__name__} samples with the very weights that the update changes"
        fix += ", or take an engine with a server of its own, such as lit_sdpo.rollouts.engines.vllm.VLLMEngine"
    elif engine.sleep_level is not None:
        reason = "the server sleeps while an update runs (sleep_level), so it can draw nothing then"
        fix += ", or the engine's sleep_level to null"
    elif learns_from_references(module):
        reason = "a method that learns from reference answers samples no completions"
    elif resample_rounds:
        reason = "groups are replaced once their rewards are known, which is too late to ask ahead"
        fix += ", or rollout.resample_rounds to 0"
    if reason is not None:
        raise UserError(reason, where="rollout.overlap", fix=fix)


def check_slots(trainer: pl.Trainer, slots: int) -> None:
    """Whether the step that the loader has cut is the step that the Trainer takes.

    Raises:
        UserError: Something has changed ``accumulate_grad_batches`` since the stage began.
    """
    if slots != trainer.accumulate_grad_batches:
        raise UserError(
            f"it is {trainer.accumulate_grad_batches}, and this stage's steps are cut into {slots} slices",
            where="trainer.accumulate_grad_batches",
            fix="leave it as it is while a stage runs",
        )


def check_cut(rows: int, slots: int) -> None:
    """Whether a window has a row for each of its slots.

    Raises:
        UserError: It has not; slots without rows would only cost time.
    """
    if slots > rows:
        raise UserError(
            f"it is {slots}, and a step has {rows} completions on each process",
            where="trainer.accumulate_grad_batches",
            fix=f"give at most {rows}",
        )


def failure_share(
    trainer: pl.Trainer, module: pl.LightningModule, verdicts: Sequence[Verdict], limit: FailureLimit
) -> float:
    """Share of verdicts over all ranks that are failures; all ranks call it together.

    Raises:
        UserError: On all of them, where the share is above the limit.
    """
    own = torch.tensor([count_failures(verdicts), len(verdicts)], device=module.device)
    failed, seen = trainer.strategy.reduce(own, reduce_op="sum").tolist()
    limit.add(failed, seen)
    return failed / max(seen, 1)
