"""Hold the policy where other prompts than the task's would notice a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_sdpo.functional.divergence import logit_divergence
from lit_sdpo.modules.objective import Term, Tokens
from lit_sdpo.policies.copies import copy_of
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class PromptAnchor(Term):
    r"""Divergence from the policy at the stage's start, on the policy's completions to other prompts than the stage's.

    .. math::
        \lambda\, \frac{1}{|M|} \sum_{t \in M} \mathrm{KL}\big(\pi_0(\cdot \mid x, y_{<t}) \,\|\,
        \pi(\cdot \mid x, y_{<t})\big)

    over the whole vocabulary, with :math:`\pi_0` the policy when the current stage began and :math:`M` the tokens of
    completions to earlier tasks' prompts and to those of ``replay_tasks``. What a verifier says of them plays no part.
    It is named for arXiv:2607.04364 and arXiv:2509.07430, which were not read for it; the formula is ours.

    It holds a copy of the policy (of an adapter, a second adapter). These completions are sampled, and read by the
    policy and the copy, beside those of the stage.

    Args:
        coefficient: Factor λ in the loss.
    """

    name = "prompt_anchor"
    replays = True

    def attach(self, module: OnPolicyModule) -> None:
        """The first copy is the base."""
        self.copy = copy_of(module.policy, "prompt_anchor", averages=False)

    def start_stage(self, module: OnPolicyModule) -> None:
        """The copy is the policy of now."""
        self.copy.mix(module.policy, 1.0)

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """All tokens of replayed rows; their share of all tokens is logged."""
        rows = ~rollouts.own
        active = batch.completion_mask & rows[:, None]
        counts = torch.stack([active.sum(), batch.completion_mask.sum()])
        anchored, tokens = module.trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        module.log("prompt_anchor/token_share", anchored / tokens, batch_size=1)
        return TermTokens(active=active, contributes=rows)

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The divergence of each token."""
        return logit_divergence(tokens.logits, tokens.logits_of(self.copy, part.contributes), 0.0)
