"""On-policy distillation by the sampled tokens: the teacher's opinion of each is its advantage."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_sdpo.functional import distillation_advantages, token_logprobs_from_logits
from lit_sdpo.modules.objective import Tokens
from lit_sdpo.modules.sdpo import SDPO, Distillation
from lit_sdpo.ranges import check_number
from lit_sdpo.rollouts.types import TermTokens


class SampledDistillation(Distillation):
    """Distillation that compares the sampled tokens alone; see :class:`OnPolicyDistillation`."""

    name = "distillation"
    advantage_clip: float | None = None

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The policy gradient of each token, with the bounded importance weight."""
        teacher = token_logprobs_from_logits(self.target(tokens), tokens.ids)
        advantages = distillation_advantages(tokens.old_logprobs, teacher, clip=self.advantage_clip)
        ratio = tokens.importance(self.importance_clip)
        module = tokens.slice.module
        module.tally_mean("sdpo/divergence", tokens.logprobs - teacher, tokens, part)
        module.tally_mean("sdpo/importance_weight", ratio, tokens, part)
        return -advantages * ratio * tokens.logprobs


class OnPolicyDistillation(SDPO):
    r"""On-policy distillation by the log-ratio of the sampled token (K. Lu, Thinking Machines, 2025; arXiv:2306.13649).

    .. math::
        \ell_t = -\min(\pi(y_t) / \pi_\text{old}(y_t),\; c_\text{max})\; A_t \log \pi(y_t), \qquad
        A_t = \mathrm{clamp}\big(\log \pi_T(y_t) - \log \pi_\text{old}(y_t),\; \pm c\big)

    with the ratio and the advantage :math:`A_t` held constant. Its expected gradient over sampled tokens is that of
    :math:`\mathrm{KL}(\pi \,\|\, \pi_T)`, which :class:`SDPO` has exactly with ``alpha: 1`` and ``top_k: null``; this
    one is noisier, and asks a teacher for one number per token. With ``outcome_coefficient`` the rewards' advantages
    are added. ``sdpo/divergence`` is the mean of :math:`\log \pi - \log \pi_T`, an estimate of that divergence.

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        advantage_clip: Largest absolute log-ratio; ``None`` leaves it unbounded, as in the source.
        **kwargs: Of :class:`SDPO`, without ``alpha``, ``top_k`` and ``tail``: the divergence is the method's own.
    """

    distillation = SampledDistillation

    def __init__(self, model_name: str, advantage_clip: float | None = None, **kwargs: Any) -> None:
        check_number("advantage_clip", advantage_clip, above=0, optional=True)
        super().__init__(model_name, alpha=1.0, top_k=None, tail=False, **kwargs)
        self.terms["distillation"].advantage_clip = advantage_clip
