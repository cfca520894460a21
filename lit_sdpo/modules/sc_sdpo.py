"""SC-SDPO: questions that are neither solved nor hopeless weigh more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_sdpo.modules.objective import scored_rows
from lit_sdpo.modules.sdpo import SDPO, Distillation
from lit_sdpo.modules.taught import taught
from lit_sdpo.rollouts.types import Rollouts

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class QuestionWeighted(Distillation):
    r"""Each question's rows weigh :math:`\sqrt{\hat p (1 - \hat p)}`, :math:`\hat p` its success rate, with mean 1."""

    name = "distillation"

    def row_weights(self, rollouts: Rollouts, known: Tensor, module: OnPolicyModule) -> Tensor | None:
        """Weights with mean 1 over the questions, of all ranks, that have any."""
        counts = scored_rows(rollouts)
        success = counts & rollouts.successes(taught(module).reprompt.success_threshold)
        successes, count = (n.view(-1, rollouts.num_generations).sum(1) for n in (success, counts))
        rate = successes / count.clamp(min=1)
        weights = (rate * (1 - rate)).sqrt()
        sums = torch.stack([weights.sum(), (weights > 0).sum().float()])
        total, questions = module.trainer.strategy.reduce(sums, reduce_op="sum")
        return (weights * questions / total.clamp(min=1e-12)).repeat_interleave(rollouts.num_generations)


class SCSDPO(SDPO):
    """SDPO with question weights ``sqrt(p (1 - p))`` (arXiv:2605.27765).

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        **kwargs: Of :class:`SDPO`.
    """

    distillation = QuestionWeighted

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(model_name, **kwargs)
