"""Group sequence policy optimisation: GRPO with one ratio for each completion."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_sdpo.functional import PolicyLoss
from lit_sdpo.modules.base import Aggregation
from lit_sdpo.modules.grpo import GRPO, PolicyGradient
from lit_sdpo.modules.objective import RowRatios, Tokens


def _ratios(tokens: Tokens) -> RowRatios:
    found = tokens.slice.row_ratios
    assert found is not None, "the module reads whole rows for a term that says so"
    return found


class SequencePolicyGradient(PolicyGradient):
    r"""The policy gradient with the ratio of the whole completion, its geometric mean over the tokens.

    .. math::
        s = \exp\Big(\frac{1}{|y|} \sum_t \log \pi(y_t) - \log \pi_\text{old}(y_t)\Big)

    The value of s is known before the loss is built. A token then carries its own part of the gradient,
    :math:`s\,\nabla \log \pi(y_t)`: all tokens of a completion weigh the same in the loss, so their sum is that of
    :math:`|y|\,\nabla s`. The engine's weights are averaged over the completion for the same reason.
    """

    whole_rows = True

    def surrogate(self, tokens: Tokens, advantages: Tensor) -> PolicyLoss:
        """PPO's, with the ratio of the token's row: against an old policy that makes it so."""
        log_ratios = tokens.of(_ratios(tokens).log_ratios)
        return self.clipped(tokens, tokens.logprobs.detach() - log_ratios, advantages)

    def weights(self, tokens: Tokens) -> Tensor:
        """The mean weight of the token's row."""
        return tokens.of(_ratios(tokens).engine_weights)


class GSPO(GRPO):
    r"""GSPO: clip the ratio of whole completions, not of tokens (arXiv:2507.18071).

    .. math::
        \ell = -\min(s A,\; \mathrm{clip}(s, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high}) A),
        \qquad s = \Big(\frac{\pi(y)}{\pi_\text{old}(y)}\Big)^{1/|y|}

    On the first update of fresh rollouts it is :class:`GRPO` with the same aggregation. A further update makes the
    logits of its tokens once more, as s has to be known first.

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        clip_eps_low: The source: 3e-4; ratios of completions are much closer to 1 than those of tokens.
        clip_eps_high: The source: 4e-4.
        aggregation: As in :class:`OnPolicyModule`; the source's is ``seq_mean_token_mean``, every completion the same.
        **kwargs: Of :class:`GRPO`.
    """

    policy_gradient = SequencePolicyGradient

    def __init__(
        self,
        model_name: str,
        clip_eps_low: float = 3e-4,
        clip_eps_high: float = 4e-4,
        aggregation: Aggregation = "seq_mean_token_mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_name, clip_eps_low=clip_eps_low, clip_eps_high=clip_eps_high, aggregation=aggregation, **kwargs
        )
