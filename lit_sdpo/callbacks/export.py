"""The trained policy as a Hugging Face folder."""

from __future__ import annotations

import copy
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from lit_sdpo.errors import UserError
from lit_sdpo.folders import run_folder
from lit_sdpo.policies.exporting import whole_folder, whole_state, write_policy


class ExportPolicy(Callback):
    """Writes the policy and its tokenizer to ``<run folder>/policy`` at the end of training.

    A policy with an adapter gives a folder with the adapter alone. ``lit-sdpo export`` makes a checked folder with a
    model card of any checkpoint.

    Args:
        dtype: Of the written weights; ``None`` keeps the trained one.

    Raises:
        UserError: The module has no ``policy`` or ``tokenizer``.
    """

    def __init__(self, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
        self.dtype = None if dtype is None else getattr(torch, dtype)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether there is something to write, before it is trained."""
        if missing := [name for name in ("policy", "tokenizer") if getattr(pl_module, name, None) is None]:
            raise UserError(
                f"{type(pl_module).__name__} has no {' and no '.join(missing)} to write",
                where="ExportPolicy",
                fix="set them to a Hugging Face causal language model and its tokenizer, or leave ExportPolicy out",
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folder."""
        folder = run_folder(trainer)
        if folder is None:
            return
        policy: Any = pl_module.policy
        tokenizer: Any = pl_module.tokenizer
        state = whole_state(policy)  # of all processes
        if not trainer.is_global_zero:
            return
        if state is None and self.dtype is not None:
            policy = copy.deepcopy(policy).to(self.dtype)
        elif state is not None and self.dtype is not None:
            state = {name: tensor.to(self.dtype) for name, tensor in state.items()}
        target = folder / "policy"
        with whole_folder(target, overwrite=True) as written:
            write_policy(policy, tokenizer, written, place=target, state=state)
