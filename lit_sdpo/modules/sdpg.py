"""SDPG: the outcome decides, the teacher shapes what succeeded, a fixed reference holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_sdpo.functional import group_advantages
from lit_sdpo.modules.grpo import BaseKL, PolicyGradient
from lit_sdpo.modules.sdpo import SDPO, Distillation
from lit_sdpo.ranges import check_integer, check_number
from lit_sdpo.rollouts.types import Rollouts

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class OutcomeGated(Distillation):
    """Distillation of completions with a positive advantage, with a weight that rises, then falls to zero."""

    name = "distillation"
    warmup_steps, decay_steps = 0, 0
    stage_start: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("stage_start", torch.zeros((), dtype=torch.long))

    def start_stage(self, module: OnPolicyModule) -> None:
        """Anneal anew: the source trains one stage."""
        self.stage_start.fill_(module.global_step)

    def row_weights(self, rollouts: Rollouts, known: Tensor, module: OnPolicyModule) -> Tensor | None:
        """Rows above their group's mean."""
        return (group_advantages(rollouts.rewards, rollouts.groups, "none") > 0).float()

    def factor(self, step: int) -> float:
        """Linear warm-up, then linear decay, counted from the stage's first step."""
        step -= int(self.stage_start)
        rising = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        falling = max(0.0, 1.0 - max(0, step - self.warmup_steps) / self.decay_steps)
        return self.coefficient * min(rising, falling)


class SDPG(SDPO):
    r"""Self-distilled policy gradient (arXiv:2606.04036).

    .. math::
        L = L_\text{outcome} + \beta(k)\, 1[A > 0]\, \mathrm{KL}(\pi \,\|\, \pi_T)
        + \lambda\, \mathrm{KL}(\pi \,\|\, \pi_0)

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        distillation_coefficient: Largest value of the weight β(k), which is annealed anew in each stage.
        warmup_steps: Optimizer steps until it is reached.
        decay_steps: Optimizer steps from there to zero.
        kl_beta: Factor λ of the KL penalty to the base model; 0 keeps no base.
        alpha: Divergence; 1 is KL(student‖teacher), as in the source.
        top_k: ``None`` compares on the whole vocabulary, as in the source.
        **kwargs: Of :class:`SDPO`.
    """

    distillation = OutcomeGated

    def __init__(
        self,
        model_name: str,
        distillation_coefficient: float = 1.0,
        warmup_steps: int = 10,
        decay_steps: int = 200,
        kl_beta: float = 0.01,
        alpha: float = 1.0,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("distillation_coefficient", distillation_coefficient, at_least=0)
        check_integer("warmup_steps", warmup_steps)
        check_integer("decay_steps", decay_steps, at_least=1)
        check_number("kl_beta", kl_beta, at_least=0)
        super().__init__(model_name, alpha=alpha, top_k=top_k, **kwargs)
        term = self.terms["distillation"]
        term.coefficient, term.warmup_steps, term.decay_steps = distillation_coefficient, warmup_steps, decay_steps
        self.add_term(PolicyGradient())
        if kl_beta:
            self.add_term(BaseKL(kl_beta))
