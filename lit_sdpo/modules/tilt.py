"""Targets between a reference and the teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional import divergence, largest_tilt, tilted_logprobs
from lit_sdpo.ranges import check_integer, check_number


class Tilted(NamedTuple):
    """A tilted target.

    Attributes:
        logprobs: Of the target, [m, V].
        inverse_beta: s of each token, [m].
        divergence: KL from the reference to the target, ``KL(pi*‖pi_ref)``, [m].
    """

    logprobs: Tensor
    inverse_beta: Tensor
    divergence: Tensor


class Tilt:
    r"""How far SDPO's target goes from the policy at the stage's start towards the teacher.

    .. math::
        \pi^* \propto \pi_\text{ref}^{1 - 1/\beta}\, \pi_T^{1/\beta}

    Beta 1 is the teacher itself, a large one stays at the reference. Beta falls linearly over a stage's first steps
    (arXiv:2607.28582, read in digests), or each token goes as far as :math:`\mathrm{KL}(\pi^* \| \pi_\text{ref}) \le
    \epsilon` allows (ours; named beside arXiv:2606.04036, which was not read for it); with both, the smaller
    :math:`1/\beta` counts. The reference has read the student's prompt, without the teacher's context. It is a copy of
    the policy, and takes a forward pass over the rows that are distilled.

    Args:
        beta: At a stage's first step.
        final_beta: After ``steps`` steps and from then on.
        steps: Optimizer steps in which it changes; 0 begins with ``final_beta``.
        epsilon: Room of each token, in nats; ``None`` bounds nothing.

    Example:
        >>> Tilt(beta=4.0, final_beta=1.0, steps=2).inverse_beta(1)
        0.4
    """

    def __init__(
        self, beta: float = 4.0, final_beta: float = 1.0, steps: int = 0, epsilon: float | None = None
    ) -> None:
        self.beta = check_number("beta", beta, at_least=1)
        self.final_beta = check_number("final_beta", final_beta, at_least=1)
        self.steps = check_integer("steps", steps)
        self.epsilon = check_number("epsilon", epsilon, at_least=0, optional=True)

    def inverse_beta(self, step: int) -> float:
        """The schedule's ``1 / beta`` after some steps of a stage."""
        share = min(step / self.steps, 1.0) if self.steps else 1.0
        return 1 / (self.beta + share * (self.final_beta - self.beta))

    def target(self, reference: Tensor, teacher: Tensor, step: int, mask: Tensor) -> Tilted:
        """The target of some tokens.

        Args:
            reference: Logits of the policy at the stage's start, [m, V].
            teacher: Logits of the teacher, or of whatever else the method aims at, [m, V].
            step: Steps of the stage so far.
            mask: Tokens that count, bool [m].
        """
        first, last = torch.log_softmax(reference, -1), torch.log_softmax(teacher, -1)
        share = first.new_full(first.shape[:-1], self.inverse_beta(step))
        if self.epsilon is not None:
            share = torch.minimum(share, largest_tilt(first, last, self.epsilon, mask))
        logprobs = tilted_logprobs(first, last, share)
        return Tilted(logprobs, share, divergence(logprobs, first, alpha=1.0))
