"""The weight of each token of a window, from counts over all processes."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from lit_sdpo.functional.reduce import Totals, count, token_weights
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.rollouts.types import LossBatch


def set_token_weights(trainer: pl.Trainer, module: RolloutModule, window: LossBatch) -> int:
    """Set the weights of each term, so that a step's loss does not depend on how its rows are divided.

    All processes call it together, and it takes one reduction.

    Returns:
        Rows that can have a gradient, over all processes.
    """
    own = [window.contributes.sum(), *(n for part in window.parts.values() for n in count(part.active))]
    counts = torch.stack([torch.as_tensor(n, device=window.completion_ids.device) for n in own])
    contributing, *totals = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
    for number, part in enumerate(window.parts.values()):
        part.weights = token_weights(
            part.active, module.aggregation, totals=Totals(*totals[3 * number : 3 * number + 3])
        )
        if part.scale is not None:
            part.weights = part.weights * part.scale[:, None]
    return int(contributing)
