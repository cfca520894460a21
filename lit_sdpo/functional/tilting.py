"""Targets between a reference and a teacher: their normalised geometric mean, and how far it may go."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32

_DIGITS = 1e-12  # of s, relatively
_ITERATIONS = 100  # Newton needs some ten; halving alone would need half of these


def tilted_logprobs(reference_logprobs: Tensor, teacher_logprobs: Tensor, inverse_beta: float | Tensor) -> Tensor:
    """Tilted target ``log pi* = log_softmax((1 - s) log pi_ref + s log pi_T)`` with ``s = inverse_beta = 1 / beta``.

    Of all policies it has the largest ``E[log pi_T - log pi_ref] - beta KL(pi*‖pi_ref)``: beta 1 is the plain teacher,
    a large one stays at the reference (arXiv 2607.28582, read in digests only). A token that one of the two forbids is
    forbidden, except at s = 0 and s = 1, which return one side.

    Args:
        reference_logprobs: log pi_ref, normalised, [..., V]; -inf means impossible.
        teacher_logprobs: log pi_T, normalised, [..., V].
        inverse_beta: s in [0, 1], one for all or one for each position, [...].

    Returns:
        [..., V], in float32 or better; nan where no token is possible under both.

    Raises:
        ValueError: ``inverse_beta`` is outside [0, 1].

    Example:
        >>> tilted_logprobs(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log(), 0.5).exp()
        tensor([0.7500, 0.2500])
    """
    reference, teacher = at_least_float32(reference_logprobs), at_least_float32(teacher_logprobs)
    share = torch.as_tensor(inverse_beta, dtype=reference.dtype, device=reference.device)
    if not bool(((share >= 0) & (share <= 1)).all()):
        raise ValueError(f"inverse_beta must be in [0, 1], got {inverse_beta}")
    share = share.unsqueeze(-1)
    mixed = torch.where(share < 1, (1 - share) * reference, 0.0) + torch.where(share > 0, share * teacher, 0.0)
    return torch.log_softmax(mixed, -1)


def largest_tilt(
    reference_logprobs: Tensor,
    teacher_logprobs: Tensor,
    epsilon: float,
    mask: Tensor | None = None,
    level: Literal["token", "batch"] = "token",
) -> Tensor:
    """The largest s in [0, 1] with ``KL(pi*_s‖pi_ref) <= epsilon``, for :func:`tilted_logprobs`.

    The divergence rises with s, so there is one crossing at most; it is found in float64. Without room (epsilon 0) s is
    exactly 0, and exactly 1 where the teacher itself is within epsilon, also where both are equal.

    Args:
        reference_logprobs: log pi_ref, [..., V].
        teacher_logprobs: log pi_T, [..., V].
        epsilon: Room, in nats, at least 0.
        mask: True at active positions, [...].
        level: ``token`` gives each position its own s, ``batch`` one for all, with epsilon bounding the token mean.

    Returns:
        [...], 0 outside the mask, or a scalar (1 where nothing is active), in float32 or better, without gradient.

    Raises:
        ValueError: ``epsilon`` is negative, or the level unknown.

    Example:
        >>> largest_tilt(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log(), 0.1308)
        tensor(0.5000)
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if level not in ("token", "batch"):
        raise ValueError(f"unknown level {level!r}: token or batch")
    active = torch.ones_like(reference_logprobs[..., 0], dtype=torch.bool) if mask is None else mask.bool()
    path = _Path(reference_logprobs.detach()[active], teacher_logprobs.detach()[active], together=level == "batch")
    found = path.furthest(epsilon).to(at_least_float32(reference_logprobs).dtype)
    return found if level == "batch" else found.new_zeros(active.shape).masked_scatter(active, found)


class _Path:
    """The targets between M references and teachers, [M, V], and their divergence from the references.

    Args:
        reference: Log-probabilities.
        teacher: Log-probabilities.
        together: One s for all and the mean of the divergences, instead of M of each.
    """

    def __init__(self, reference: Tensor, teacher: Tensor, together: bool) -> None:
        self.together = together
        self.reference = torch.log_softmax(reference.double(), -1)
        self.teacher = torch.log_softmax(teacher.double(), -1)
        possible = self.reference > -torch.inf
        change = torch.where(possible, self.teacher - self.reference, 0.0)
        # A constant in the exponent cancels; without it, differences of small numbers keep their digits.
        finite = change > -torch.inf
        self.change = change - _expected(self.reference.exp(), change.where(finite, 0.0)).unsqueeze(-1)

    def _reduce(self, values: Tensor) -> Tensor:
        return values.sum() / max(len(values), 1) if self.together else values

    def divergence(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """KL from the reference at 0 < s < 1, and its derivative by s."""
        exponent = self.reference + s.unsqueeze(-1) * self.change
        log_total = exponent.logsumexp(-1, keepdim=True)
        mass = (exponent - log_total).exp()
        mean = _expected(mass, self.change)
        variance = _expected(mass, (self.change - mean.unsqueeze(-1)).square())
        return self._reduce(s * mean - log_total[..., 0]), self._reduce(s * variance)

    def furthest(self, epsilon: float) -> Tensor:
        """The largest s within epsilon: Newton's steps inside a bracket, halved where they leave it.

        Near the crossing the steps come from above and would never raise the lower end, which is what is returned: they
        end a little short.
        """
        at_teacher = self._reduce(_expected(self.teacher.exp(), self.teacher - self.reference))
        # What the teacher forbids is gone at the first step away from the reference, and may already be too much.
        allowed = self.reference.masked_fill(self.teacher == -torch.inf, -torch.inf)
        at_once = self._reduce(-allowed.logsumexp(-1).clamp(max=0.0))
        low, high = torch.zeros_like(at_teacher), torch.ones_like(at_teacher)
        reached = at_teacher <= epsilon
        settled = reached | (at_once > epsilon)
        s = high / 2
        for _ in range(_ITERATIONS if epsilon > 0 else 0):
            if bool(settled.all()):
                break
            value, slope = self.divergence(s)
            inside = value <= epsilon
            low, high = torch.where(inside, s, low), torch.where(inside, high, s)
            step = s - (value - epsilon) / slope
            settled |= inside & (step - s <= _DIGITS * s) | (high - low <= _DIGITS * high)
            step *= 1 - _DIGITS / 2
            s = torch.where((step > low) & (step < high), step, (low + high) / 2)
        return torch.where(reached, 1.0, low)


def _expected(mass: Tensor, values: Tensor) -> Tensor:
    return torch.where(mass > 0, mass * values, 0.0).sum(-1)
