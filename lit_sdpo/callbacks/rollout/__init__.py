"""Completions for each window and evaluation, and what of them reaches the loss."""

from lit_sdpo.callbacks.rollout.callback import RolloutCallback

__all__ = ["RolloutCallback"]
