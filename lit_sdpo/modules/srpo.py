"""SRPO: failures learn from the teacher, the rest from the reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_sdpo.functional import entropy
from lit_sdpo.modules.grpo import PolicyGradient
from lit_sdpo.modules.objective import Tokens
from lit_sdpo.modules.sdpo import SDPO, Distillation
from lit_sdpo.modules.taught import taught
from lit_sdpo.ranges import check_number
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class RoutedDistillation(Distillation):
    """Distillation of failed completions, less where the teacher itself is unsure: ``exp(-beta · H(teacher))``."""

    name = "distillation"
    entropy_beta = 0.0

    def row_weights(self, rollouts: Rollouts, known: Tensor, module: OnPolicyModule) -> Tensor | None:
        """Failures only."""
        return (~rollouts.successes(taught(module).reprompt.success_threshold)).float()

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The divergence under the teacher's confidence."""
        return super().losses(tokens, part) * torch.exp(-self.entropy_beta * entropy(tokens.teacher_logits))


class RoutedPolicyGradient(PolicyGradient):
    """The policy gradient of the completions that are not distilled."""

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """Successes, and failures whose teacher has nothing to tell."""
        part = super().prepare(rollouts, batch, module)
        own = ~batch.parts["distillation"].contributes
        part.active = part.active & own[:, None]
        part.contributes = part.contributes & own
        return part


class SRPO(SDPO):
    """Sample-routed policy optimisation (arXiv:2604.02288): SDPO on failures with a teacher, GRPO on everything else.

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        entropy_beta: Weight ``exp(-entropy_beta · H)`` of a distilled token, H the teacher's entropy in nats; 0 weighs
            all alike.
        **kwargs: Of :class:`SDPO`.
    """

    distillation = RoutedDistillation

    def __init__(self, model_name: str, entropy_beta: float = 1.0, **kwargs: Any) -> None:
        check_number("entropy_beta", entropy_beta, at_least=0)
        super().__init__(model_name, **kwargs)
        self.terms["distillation"].entropy_beta = entropy_beta
        self.add_term(RoutedPolicyGradient())
