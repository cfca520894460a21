"""CISPO: bound the weight of a token and keep its gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_sdpo.functional import PolicyLoss, cispo_loss
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.grpo import Advantage, BaseKL, KLEstimator, Reinforcement
from lit_sdpo.modules.objective import Tokens
from lit_sdpo.ranges import check_number


class BoundedWeight(Reinforcement):
    r"""The policy gradient, weighted with the token's ratio within absolute bounds.

    .. math::
        \ell = -w\, \mathrm{sg}(\mathrm{clip}(r, r_\min, r_\max))\, A \log \pi,
        \qquad r = \exp(\log \pi - \log \pi_\text{old})

    with :math:`w` the token's weight for the difference between engine and policy.

    Args:
        advantage: How the advantage A is normalised; see :class:`~lit_sdpo.modules.GRPO`.
        ratio_min: Smallest weight.
        ratio_max: Largest weight.
        drop_flat_groups: Groups whose rewards are all equal leave the denominator too.
        coefficient: Factor in the loss.
    """

    def __init__(
        self,
        advantage: Advantage = "none",
        ratio_min: float = 0.0,
        ratio_max: float = 5.0,
        drop_flat_groups: bool = False,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(advantage, drop_flat_groups, coefficient)
        self.ratio_min = check_number("ratio_min", ratio_min, at_least=0, at_most=1)
        self.ratio_max = check_number("ratio_max", ratio_max, at_least=1)

    def surrogate(self, tokens: Tokens, advantages: Tensor) -> PolicyLoss:
        """The weighted log-probability."""
        return cispo_loss(
            tokens.logprobs, tokens.old_logprobs, advantages, ratio_min=self.ratio_min, ratio_max=self.ratio_max
        )


class CISPO(OnPolicyModule):
    r"""CISPO: the ratio only weighs a token, within bounds, and every token keeps its gradient (arXiv:2506.13585).

    .. math::
        \ell = -\mathrm{sg}(\mathrm{clip}(r, r_\min, r_\max))\, A \log \pi + \beta\, k(\log \pi - \log \pi_0)

    PPO's clip silences rare tokens after the first update, whose ratios move furthest; here they learn on. On the first
    update of fresh rollouts the gradient is that of :class:`GRPO`.

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        advantage: As in :class:`GRPO`.
        ratio_min: Smallest weight, absolute, at most 1; the source has none.
        ratio_max: Largest weight, absolute, at least 1; the source tunes it.
        drop_flat_groups: As in :class:`GRPO`.
        kl_beta: Factor of the KL penalty to the base model; 0 keeps no base.
        kl_estimator: ``k1``, ``k2`` or ``k3``.
        **kwargs: Of :class:`OnPolicyModule`.
    """

    def __init__(
        self,
        model_name: str,
        advantage: Advantage = "none",
        ratio_min: float = 0.0,
        ratio_max: float = 5.0,
        drop_flat_groups: bool = False,
        kl_beta: float = 0.0,
        kl_estimator: KLEstimator = "k3",
        **kwargs: Any,
    ) -> None:
        check_number("kl_beta", kl_beta, at_least=0)
        super().__init__(model_name, **kwargs)
        self.add_term(BoundedWeight(advantage, ratio_min, ratio_max, drop_flat_groups))
        if kl_beta:
            self.add_term(BaseKL(kl_beta, kl_estimator))
