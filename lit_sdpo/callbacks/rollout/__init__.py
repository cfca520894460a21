"""Completions for each window and evaluation, and what of them reaches the loss."""

from typing import TYPE_CHECKING

from lit_sdpo.lazy import lazy_names

if TYPE_CHECKING:
    from lit_sdpo.callbacks.rollout.callback import RolloutCallback

__all__ = ["RolloutCallback"]

__getattr__, __dir__ = lazy_names(__name__, {"lit_sdpo.callbacks.rollout.callback": "RolloutCallback"})
