"""Whether anything in a run samples completions, for callbacks that look on."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.callbacks.rollout.callback import RolloutCallback


def say_if_nothing_samples(trainer: pl.Trainer, callback: pl.Callback, then: str) -> None:
    """Name a callback that is shown rollouts in a run without a rollout callback; for ``setup``.

    Args:
        trainer: Of the run.
        callback: The one that waits for rollouts.
        then: What becomes of it.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(one, RolloutCallback) for one in callbacks):
        rank_zero_info(f"{type(callback).__name__} is shown no rollouts, as there is no RolloutCallback: {then}.")
