"""How far the engine that sampled is from the policy that learns, and what losses make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional import mismatch_weights
from lit_sdpo.functional.filters import TRANSFORMERS_ORDER, Filter, filtered_logprobs
from lit_sdpo.rollouts.engines.base import Sampling

if TYPE_CHECKING:
    import lightning.pytorch as pl

CAP = 2.0
"""Largest weight of a token for the difference between engine and policy (truncated importance sampling)."""

Correction = Literal["weight", "ratio"]


class Compared(NamedTuple):
    """Some tokens as a window's first update sees them.

    Attributes:
        old_logprobs: What the policy's ratios are against from now on, [m], under the whole distribution.
        weights: What their losses are multiplied with, [m].
    """

    old_logprobs: Tensor
    weights: Tensor


class Mismatch:
    r"""The engine of one window against the policy at the window's first update.

    Engine and policy are compared under the same filters, each with its own probabilities: ``π_f`` is the policy after
    temperature and the filters of the sampling, in the engine's order, renormalised, and ``π_e`` is what the engine
    reported. A token that the policy's own filter drops has ``π_f = 0`` and weighs nothing, as the policy would not
    have drawn it. There are two ways to use that:

    - ``weight``: ratios are between policies, ``π / π_old`` with ``π_old`` the policy at the window's first update,
      both under the whole distribution, so the first update has ratio 1; losses are multiplied with
      ``min(π_f / π_e, 2)``, which stays what it was in further updates (truncated importance sampling).
    - ``ratio``: ratios are against the engine, ``π_f / π_e``, and are clipped as any ratio is. Nothing is multiplied.

    Args:
        device: Of the sums.
        sampling: How the engine was asked to draw.
        filter_order: The order in which it filters.
        correction: ``weight`` or ``ratio``.

    Example:
        >>> seen = Mismatch(torch.device("cpu"))
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> found = seen.compare(logits, torch.tensor([0, 1]), logprobs := logits[:, 0] - 0.6931, logprobs - 0.5)
        >>> [round(float(value), 2) for value in (*found.weights, seen.sums[0] / seen.sums[2], seen.largest)]
        [1.65, 1.65, 0.5, 0.5]
    """

    def __init__(
        self,
        device: torch.device,
        sampling: Sampling | None = None,
        filter_order: Sequence[Filter] = TRANSFORMERS_ORDER,
        correction: Correction = "weight",
    ) -> None:
        self.sampling, self.filter_order, self.correction = sampling or Sampling(), filter_order, correction
        #: Of absolute differences, of weights, the number of tokens, and of those that the policy's filter drops.
        self.sums = torch.zeros(4, device=device)
        self.largest = torch.zeros((), device=device)

    @torch.no_grad()
    def compare(self, logits: Tensor, ids: Tensor, logprobs: Tensor, sampled: Tensor) -> Compared:
        """Compare some tokens, and count them.

        Args:
            logits: The policy's, at the sampling temperature, [m, V].
            ids: The tokens, int64 [m].
            logprobs: The policy's log-probabilities, [m].
            sampled: Log-probabilities as the engine reported them, [m].
        """
        own, kept = logprobs.detach().float(), torch.zeros_like(sampled)
        if self.sampling.filtered:
            s = self.sampling
            found = filtered_logprobs(
                logits.detach(), ids, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p, order=self.filter_order
            )
            own, kept = found.filtered, found.log_kept_mass
        weights = mismatch_weights(own, sampled, cap=CAP)
        inside = own > -torch.inf
        difference = (own - sampled).abs().where(inside, 0.0)
        self.sums += torch.stack([difference.sum(), weights.sum(), difference.new_tensor(len(ids)), (~inside).sum()])
        if len(ids):
            self.largest = torch.maximum(self.largest, difference.max())
        if self.correction == "weight":
            return Compared(logprobs.detach(), weights)
        # The same kept mass on both sides of the ratio leaves π_f / π_e, with the gradient of the whole distribution.
        return Compared(sampled + kept, inside.float())

    def log(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Log over the tokens of all processes, which call it together."""
        total, weights, tokens, outside = trainer.strategy.reduce(self.sums, reduce_op="sum")
        largest = trainer.strategy.reduce(self.largest, reduce_op="max")
        if tokens == 0:
            return
        values = {"mean": total / (tokens - outside).clamp(min=1), "max": largest, "weight": weights / tokens}
        if self.sampling.filtered:
            values["outside"] = outside / tokens
        for name, value in values.items():
            module.log(f"rollout/mismatch/{name}", value, on_step=True, on_epoch=False, batch_size=1)
