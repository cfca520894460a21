"""Checkpoints at stage ends."""

from __future__ import annotations

from lightning.pytorch.callbacks import ModelCheckpoint


class StageCheckpoint(ModelCheckpoint):
    """Saves ``checkpoints/stage=<i>-step=<n>.ckpt`` at each stage's end, after its evaluation.

    Args:
        keep: How many to keep, the latest ones; -1 keeps all.
    """

    def __init__(self, keep: int = -1) -> None:
        every = {"save_top_k": -1} if keep == -1 else {"save_top_k": keep, "monitor": "step", "mode": "max"}
        super().__init__(
            filename="stage={epoch}-step={step}", auto_insert_metric_name=False, save_on_train_epoch_end=True, **every
        )
