"""Group-relative policy optimisation."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from lit_sdpo.functional import (
    PolicyLoss,
    group_advantages,
    kl_penalty,
    ppo_loss,
    token_logprobs_from_logits,
)
from lit_sdpo.functional.advantages import std_of_sums, sums_of
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.objective import Term, Tokens, rewarded_rows
from lit_sdpo.policies.copies import base_of
from lit_sdpo.ranges import check_number
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens

Advantage = Literal["none", "std", "loo", "batch_std"]
KLEstimator = Literal["k1", "k2", "k3"]


class Reinforcement(Term):
    """Reinforce what scored above its group's mean; how far a ratio may carry that is for :meth:`surrogate`.

    Args:
        advantage: How the advantage A is normalised; see :class:`GRPO`.
        drop_flat_groups: Groups whose rewards are all equal leave the denominator too.
        coefficient: Factor in the loss.
    """

    name = "policy_gradient"

    def __init__(self, advantage: Advantage = "none", drop_flat_groups: bool = False, coefficient: float = 1.0) -> None:
        super().__init__(coefficient)
        self.advantage = advantage
        self.drop_flat_groups = drop_flat_groups

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """Advantages within each prompt's group; a completion without a reward carries no loss."""
        counts = rewarded_rows(rollouts)
        rewards = rollouts.rewards.masked_fill(~counts, torch.nan)
        spread = None
        if self.advantage == "batch_std":  # of the whole window, whoever drew it
            spread = std_of_sums(module.trainer.strategy.reduce(sums_of(rewards), reduce_op="sum"))
        advantages = group_advantages(rewards, rollouts.groups, self.advantage, batch_std=spread)
        if self.drop_flat_groups:
            counts = counts & ~rollouts.flat.repeat_interleave(rollouts.num_generations)
        return TermTokens(
            active=batch.completion_mask & counts[:, None],
            contributes=counts & (advantages != 0),
            values={"advantages": advantages},
        )

    @abstractmethod
    def surrogate(self, tokens: Tokens, advantages: Tensor) -> PolicyLoss:
        """The loss of each token, [m], from its advantage [m]."""

    def weights(self, tokens: Tokens) -> Tensor:
        """Weight of each token for the difference between engine and policy, [m]."""
        return tokens.engine_weights

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The surrogate, weighted for the engine."""
        loss = self.surrogate(tokens, tokens.of(part.values["advantages"]))
        tokens.slice.module.tally_mean("train/clip_fraction", loss.clipped_low | loss.clipped_high, tokens, part)
        return loss.per_token * self.weights(tokens)


class PolicyGradient(Reinforcement):
    r"""Reinforce what scored above its group's mean, within a clipped ratio.

    .. math::
        \ell = -w \min(r A,\; \mathrm{clip}(r, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high}) A),
        \qquad r = \exp(\log \pi - \log \pi_\text{old})

    with :math:`w` the token's weight for the difference between engine and policy, 1 where the policy itself sampled.

    Args:
        advantage: How the advantage A is normalised; see :class:`GRPO`.
        clip_eps_low: Width of the ratio's range below 1.
        clip_eps_high: Width above 1.
        drop_flat_groups: Groups whose rewards are all equal leave the denominator too.
        coefficient: Factor in the loss.
    """

    def __init__(
        self,
        advantage: Advantage = "none",
        clip_eps_low: float = 0.2,
        clip_eps_high: float = 0.28,
        drop_flat_groups: bool = False,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(advantage, drop_flat_groups, coefficient)
        self.clip_eps_low = check_number("clip_eps_low", clip_eps_low, above=0, at_most=1)
        self.clip_eps_high = check_number("clip_eps_high", clip_eps_high, above=0)

    def surrogate(self, tokens: Tokens, advantages: Tensor) -> PolicyLoss:
        """PPO's, with each token's own ratio."""
        return self.clipped(tokens, tokens.old_logprobs, advantages)

    def clipped(self, tokens: Tokens, old_logprobs: Tensor, advantages: Tensor) -> PolicyLoss:
        """PPO's surrogate within this term's range."""
        return ppo_loss(tokens.logprobs, old_logprobs, advantages, low=self.clip_eps_low, high=self.clip_eps_high)


class BaseKL(Term):
    """Penalty on the KL divergence from the base model, the policy before the first stage.

    Args:
        beta: Factor in the loss.
        estimator: ``k1``, ``k2`` or ``k3`` of :func:`lit_sdpo.functional.kl_penalty`, from the sampled tokens.
    """

    name = "base_kl"

    def __init__(self, beta: float, estimator: KLEstimator = "k3") -> None:
        super().__init__(beta)
        self.estimator = estimator

    def attach(self, module: OnPolicyModule) -> None:
        """Keep the base."""
        self.base = base_of(module.policy)

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """Every token with a reward."""
        counts = rewarded_rows(rollouts)
        return TermTokens(active=batch.completion_mask & counts[:, None], contributes=counts)

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The estimate per token."""
        base = token_logprobs_from_logits(tokens.logits_of(self.base), tokens.ids)
        return kl_penalty(tokens.logprobs, base, self.estimator)


class GRPO(OnPolicyModule):
    r"""GRPO: reinforce what scored above its group's mean, within a clipped ratio.

    .. math::
        \ell = -\min(r A,\; \mathrm{clip}(r, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high}) A)
        + \beta\, k(\log \pi - \log \pi_0)

    with the advantage :math:`A` of the completion within the group of its prompt. On the first update of fresh rollouts
    :math:`r = 1` and the gradient is that of the plain policy gradient.

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        advantage: ``none`` is reward minus group mean (the released code of arXiv:2607.01763), ``std`` divides by the
            group's standard deviation (arXiv:2402.03300, and the paper's text), ``loo`` compares with the mean of the
            others, ``batch_std`` divides by the standard deviation of all rewards.
        clip_eps_low: The paper: 0.2.
        clip_eps_high: The paper: 0.28.
        drop_flat_groups: Groups whose rewards are all equal leave the denominator too (arXiv:2503.14476).
        kl_beta: Factor of the KL penalty to the base model (the paper: 0, and then there is no base in memory).
        kl_estimator: ``k1``, ``k2`` or ``k3``.
        **kwargs: Of :class:`OnPolicyModule`. The paper's learning rate for GRPO is 1e-6.
    """

    #: The term that learns from rewards.
    policy_gradient: type[PolicyGradient] = PolicyGradient

    def __init__(
        self,
        model_name: str,
        advantage: Advantage = "none",
        clip_eps_low: float = 0.2,
        clip_eps_high: float = 0.28,
        drop_flat_groups: bool = False,
        kl_beta: float = 0.0,
        kl_estimator: KLEstimator = "k3",
        **kwargs: Any,
    ) -> None:
        check_number("kl_beta", kl_beta, at_least=0)
        super().__init__(model_name, **kwargs)
        self.add_term(self.policy_gradient(advantage, clip_eps_low, clip_eps_high, drop_flat_groups))
        if kl_beta:
            self.add_term(BaseKL(kl_beta, kl_estimator))
