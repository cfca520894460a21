"""How far the probabilities of the program that sampled are from those of the policy that learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_sdpo.functional import mismatch_weights

CAP = 2.0
"""Largest weight of a token for the difference between engine and policy (truncated importance sampling)."""


class Mismatch:
    """Sums over the tokens of one optimizer step on this process.

    Args:
        device: Of the sums.

    Example:
        >>> seen = Mismatch(torch.device("cpu"))
        >>> seen.add(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]))
        >>> [round(float(value), 2) for value in (seen.sums[0] / seen.sums[2], seen.largest)]
        [0.25, 0.5]
    """

    def __init__(self, device: torch.device) -> None:
        #: Of absolute differences, of weights, and the number of tokens.
        self.sums = torch.zeros(3, device=device)
        self.largest = torch.zeros((), device=device)

    def add(self, logprobs: Tensor, sampled: Tensor) -> None:
        """Add some tokens.

        Args:
            logprobs: Log-probabilities under the policy, [m].
            sampled: The same as the engine reported them, [m].
        """
        if len(sampled):
            difference = (logprobs.detach().float() - sampled).abs()
            weights = mismatch_weights(logprobs, sampled, cap=CAP)
            self.sums += torch.stack([difference.sum(), weights.sum(), difference.new_tensor(len(sampled))])
            self.largest = torch.maximum(self.largest, difference.max())

    def log(self, trainer: Any, module: Any) -> None:
        """Log over the tokens of all processes, which call it together."""
        total, weights, tokens = trainer.strategy.reduce(self.sums, reduce_op="sum")
        largest = trainer.strategy.reduce(self.largest, reduce_op="max")
        if tokens == 0:
            return
        values = {"mean": total / tokens, "max": largest, "weight": weights / tokens}
        for name, value in values.items():
            module.log(f"rollout/mismatch/{name}", value, on_step=True, on_epoch=False, batch_size=1)
