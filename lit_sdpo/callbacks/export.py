"""The trained policy as a Hugging Face folder."""

from __future__ import annotations

import copy
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from lit_sdpo.callbacks.folder import run_folder


class ExportPolicy(Callback):
    """Writes the policy and its tokenizer to ``<run folder>/policy`` at the end of training.

    Args:
        dtype: Of the written weights; ``None`` keeps the trained one.
    """

    def __init__(self, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
        self.dtype = None if dtype is None else getattr(torch, dtype)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folder."""
        folder = run_folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        policy: Any = pl_module.policy
        tokenizer: Any = pl_module.tokenizer
        written: Any = policy if self.dtype is None else copy.deepcopy(policy).to(self.dtype)
        written.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
