"""GeoSD: a bounded pull towards the teacher, and a leash to what the policy was a little while ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_sdpo.functional import squared_fisher_rao, squared_hellinger
from lit_sdpo.modules.objective import Term, Tokens
from lit_sdpo.modules.sdpo import SDPO, Distillation
from lit_sdpo.policies.copies import copy_of
from lit_sdpo.ranges import check_integer, check_number
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class HellingerDistillation(Distillation):
    """Distillation by the squared Hellinger distance over the whole vocabulary."""

    name = "distillation"

    def divergence(self, tokens: Tokens) -> Tensor:
        """Squared Hellinger distance of each token."""
        return squared_hellinger(torch.log_softmax(tokens.logits, -1), torch.log_softmax(tokens.target, -1))


class Anchor(Term):
    """Squared Fisher-Rao distance to a recent copy of the policy.

    Args:
        coefficient: Factor in the loss.
        every: Optimizer steps between copies.
    """

    name = "anchor"
    steps: Tensor

    def __init__(self, coefficient: float, every: int) -> None:
        super().__init__(coefficient)
        self.every = check_integer("every", every, at_least=1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def attach(self, module: OnPolicyModule) -> None:
        """The first copy."""
        self.copy = copy_of(module.policy, "anchor")

    def after_optimizer_step(self, module: OnPolicyModule) -> None:
        """A new copy when it is time."""
        self.steps += 1
        if int(self.steps) % self.every == 0:
            self.copy.mix(module.policy, 1.0)

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """The rows that are distilled."""
        distilled = batch.parts["distillation"]
        return TermTokens(active=distilled.active, contributes=distilled.contributes)

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The distance of each token."""
        anchor = torch.log_softmax(tokens.logits_of(self.copy), -1)
        return squared_fisher_rao(torch.log_softmax(tokens.logits, -1), anchor)


class GeoSD(SDPO):
    """Geometric self-distillation (arXiv:2607.06855).

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        anchor_coefficient: Factor of the squared Fisher-Rao distance to the anchor.
        anchor_every: Optimizer steps between anchors.
        **kwargs: Of :class:`SDPO`, without ``alpha``, ``top_k`` and ``tail``: the divergence is the method's own.
    """

    distillation = HellingerDistillation

    def __init__(self, model_name: str, anchor_coefficient: float = 0.1, anchor_every: int = 10, **kwargs: Any) -> None:
        check_number("anchor_coefficient", anchor_coefficient, at_least=0)
        check_integer("anchor_every", anchor_every, at_least=1)
        super().__init__(model_name, alpha=0.5, top_k=None, tail=False, **kwargs)
        self.add_term(Anchor(anchor_coefficient, anchor_every))
