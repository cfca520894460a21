"""Flags of the Trainer that would cut the stream: a run that ends has trained and evaluated what its stages say."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lit_sdpo.errors import UserError

WANTED = "pass **data.trainer_arguments() to the Trainer (the command line does)"
WHOLE = "leave it out, and make the stages' steps fewer"


def check_training(trainer: Any, *, stages: int, steps: int, eval_every: int | None, evaluates: bool) -> None:
    """Refuse what would leave steps, slices of a step or evaluations out.

    Args:
        trainer: The Trainer of the run.
        stages: Stages of the stream.
        steps: Optimizer steps of the whole stream.
        eval_every: Steps between evaluations inside a stage.
        evaluates: Whether the stream evaluates anything.

    Raises:
        UserError: Naming the flag.
    """
    if trainer.reload_dataloaders_every_n_epochs != 1:
        raise _refused("reload_dataloaders_every_n_epochs", "loaders have to be rebuilt each epoch", WANTED)
    if trainer.max_steps != -1:
        raise _refused("max_steps", "max_steps would cut a stage", "set the steps of the stages instead")
    epochs = trainer.max_epochs
    if epochs == 0:
        raise _refused("max_epochs", "0 epochs train nothing", "use lit-sdpo validate to evaluate without training")
    if epochs is None or not 0 < epochs <= stages:
        raise _refused("max_epochs", f"{epochs} epochs for {stages} stages", WANTED)
    for name, least, most in (("min_epochs", trainer.min_epochs, epochs), ("min_steps", trainer.min_steps, steps)):
        if least is not None and not 0 <= least <= most:
            raise _refused(name, f"{least} of at most {most}", f"give at most {most}, or leave it out")
    if trainer.overfit_batches:
        raise _refused("overfit_batches", "it would replace the stream", "leave it at 0")
    if trainer.accumulate_grad_batches < 1:
        slices = f"a step cannot be cut into {trainer.accumulate_grad_batches} slices"
        raise _refused("accumulate_grad_batches", slices, "at least 1")
    if trainer.log_every_n_steps < 0:
        raise _refused("log_every_n_steps", f"{trainer.log_every_n_steps} steps", "at least 1, or 0 to log nothing")
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        what = "GradientAccumulationScheduler changes the number of slices inside a step"
        raise _refused("callbacks", what, "set trainer.accumulate_grad_batches, which does not change what is learned")
    _whole("limit_train_batches", trainer.limit_train_batches, "every stage", WHOLE)
    if evaluates:
        check_evaluation(trainer, "limit_val_batches")
        _check_times(trainer, eval_every)


def check_evaluation(trainer: Any, flag: str) -> None:
    """Refuse what would leave prompts of an evaluation out.

    Raises:
        UserError: Naming the flag.
    """
    fix = "leave it out; data.eval_prompts says how many prompts, data.evaluate_trained whether tasks are evaluated"
    _whole(flag, getattr(trainer, flag), "every evaluation", fix)


def _check_times(trainer: Any, eval_every: int | None) -> None:
    """Every stage's end is a row of the matrix; what is evaluated in between is the data's to say."""
    every = trainer.check_val_every_n_epoch
    if every != 1:
        raise _refused("check_val_every_n_epoch", f"{every}: every stage's end is evaluated", "leave it at 1")
    own = None if eval_every is None else eval_every * trainer.accumulate_grad_batches
    interval = trainer._val_check_time_interval or trainer.val_check_interval
    if interval != own and not (isinstance(interval, float) and interval == 1.0):
        fix = "leave it out, and set data.eval_every, in optimizer steps"
        raise _refused("val_check_interval", "it counts batches, which are slices of steps", fix)


def _whole(flag: str, value: float, what: str, fix: str) -> None:
    if not (isinstance(value, float) and value == 1.0):  # the whole number 1 is one batch
        raise _refused(flag, f"{value} would cut {what}", fix)


def _refused(flag: str, what: str, fix: str) -> UserError:
    return UserError(what, where=f"trainer.{flag}", fix=fix)
