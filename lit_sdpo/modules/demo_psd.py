"""DemoPSD: the target keeps more of the student where student and teacher disagree most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_sdpo.functional import divergence
from lit_sdpo.modules.objective import Tokens
from lit_sdpo.modules.sdpo import SDPO, Distillation
from lit_sdpo.ranges import check_number, check_share


class PartialTarget(Distillation):
    r"""Distillation towards a mixture that keeps more of the student where the two disagree.

    .. math::
        \pi_\text{target} \propto \pi_T^{1 - a} \pi^{a},
        \qquad a = 2 a_\text{max} (\sigma(b \cdot \mathrm{JSD}(\pi, \pi_T)) - 1/2)
    """

    name = "distillation"
    share_max, sharpness = 0.0, 0.0

    def target(self, tokens: Tokens) -> Tensor:
        """Geometric mixture of teacher and student, token by token."""
        student = torch.log_softmax(tokens.logits.detach(), -1)
        teacher = torch.log_softmax(tokens.teacher_logits, -1)
        disagreement = divergence(student, teacher, 0.5)
        share = 2 * self.share_max * (torch.sigmoid(self.sharpness * disagreement) - 0.5)
        return torch.lerp(teacher, student, share[:, None])


class DemoPSD(SDPO):
    """Partial self-distillation from demonstrations (arXiv:2607.02502).

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        share_max: Largest share of the student in the target, approached where the two disagree.
        sharpness: How fast the share grows with the Jensen-Shannon divergence of the two, in nats.
        **kwargs: Of :class:`SDPO`.
    """

    distillation = PartialTarget

    def __init__(self, model_name: str, share_max: float = 0.5, sharpness: float = 10.0, **kwargs: Any) -> None:
        check_share("share_max", share_max)
        check_number("sharpness", sharpness, at_least=0)
        super().__init__(model_name, **kwargs)
        term = self.terms["distillation"]
        term.share_max, term.sharpness = share_max, sharpness
