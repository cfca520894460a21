"""What callbacks that decide which weights a stage hands on have in common."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_sdpo.callbacks.weights.trained import check_whole
from lit_sdpo.errors import UserError
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.policies.held import adapted
from lit_sdpo.policies.masters import is_rounded


class Handover(pl.Callback):
    """Puts other weights in the place of the trained ones when a stage ends, before its checkpoint is written.

    Teachers, anchors and the optimizer need no word of it: what they take from the policy when the next stage begins
    are these weights, and float32 masters are replaced with their weights.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out whether it can be done.

        Raises:
            UserError: The module is none of this package, its weights are divided among processes or are adapters, or
                two callbacks want to decide what is handed on.
        """
        name = type(self).__name__
        if not isinstance(pl_module, OnPolicyModule):
            fix = "give it a method of this package"
            raise UserError(f"{type(pl_module).__name__} does not say what its weights are", where=name, fix=fix)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if others := [type(each).__name__ for each in callbacks if isinstance(each, Handover) and each is not self]:
            raise UserError(
                f"{others[0]} decides too what a stage hands on", where=name, fix="leave one of the two out"
            )
        if adapted(pl_module.policy):
            raise UserError(
                "a mean of two adapters' updates has up to twice their rank, so it is no adapter of this rank",
                where=name,
                fix="train all parameters, or some of them with model.train_only",
            )
        check_whole(pl_module, name, "and the weights to hand on are kept whole", "")

    def begin_late(self, trainer: pl.Trainer) -> None:
        """Say that a run which goes on has not had this callback before."""
        if trainer.global_step:
            rank_zero_warn(
                f"{type(self).__name__} is new to this run: it takes step {trainer.global_step} as its start."
            )


def exact_copy(module: OnPolicyModule, device: str | None = None) -> list[Tensor]:
    """The trained weights as they are now, in float32 or better, where they are or on another device."""
    exact = (weight.detach() for weight in module.exact_weights)
    return [w.to(device, torch.float32 if is_rounded(w) else w.dtype, copy=True) for w in exact]
