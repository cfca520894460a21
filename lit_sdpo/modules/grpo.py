"""Group-relative policy optimisation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_sdpo.functional import group_advantages, ppo_loss
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.rollouts.types import LossBatch, Rollouts


class GRPO(OnPolicyModule):
    r"""GRPO: reinforce what scored above its group's mean, within a clipped ratio.

    .. math::
        \ell = -\min(r A,\; \mathrm{clip}(r, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high}) A),
        \qquad r = \exp(\log \pi - \log \pi_\text{old})

    with the advantage :math:`A` of the completion within the group of its prompt. On the first update of fresh rollouts
    :math:`r = 1` and the gradient is that of the plain policy gradient.

    Args:
        advantage: ``none`` is reward minus group mean (the released code of arXiv:2607.01763), ``std`` divides by the
            group's standard deviation (arXiv:2402.03300, and the paper's text), ``loo`` compares with the mean of the
            others, ``batch_std`` divides by the standard deviation of all rewards.
        clip_eps_low: The paper: 0.2.
        clip_eps_high: The paper: 0.28.
        **kwargs: Of :class:`OnPolicyModule`. The paper's learning rate for GRPO is 1e-6.
    """

    def __init__(
        self,
        model_name: str,
        advantage: Literal["none", "std", "loo", "batch_std"] = "none",
        clip_eps_low: float = 0.2,
        clip_eps_high: float = 0.28,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name, **kwargs)
        self.advantage, self.clip_eps_low, self.clip_eps_high = advantage, clip_eps_low, clip_eps_high

    def prepare_rollouts(self, rollouts: Rollouts) -> LossBatch:
        """Advantages within each prompt's group; a completion without a reward carries no loss."""
        advantages = group_advantages(rollouts.rewards, rollouts.groups, self.advantage)
        judged = ~rollouts.rewards.isnan()
        return LossBatch.of(
            rollouts,
            advantages=advantages,
            active=rollouts.completion_mask & judged[:, None],
            contributes=judged & (advantages != 0),
        )

    def token_losses(self, batch: LossBatch) -> Tensor:
        """The clipped surrogate per token, [M]."""
        mask = batch.completion_mask
        logprobs = torch.log_softmax(self.token_logits(batch), -1)
        logprobs = logprobs.gather(-1, batch.completion_ids[mask][:, None])[:, 0]
        old = logprobs.detach() if batch.fresh else batch.old_logprobs[mask]
        advantages = batch.advantages[:, None].expand_as(mask)[mask]  # type: ignore[index]
        loss = ppo_loss(logprobs, old, advantages, low=self.clip_eps_low, high=self.clip_eps_high)
        self.tally_mean("train/clip_fraction", loss.clipped_low | loss.clipped_high, batch)
        return loss.per_token
