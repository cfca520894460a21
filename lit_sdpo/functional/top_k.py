"""Distributions seen on a few entries only, with the mass of all others as one more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_sdpo.functional.precision import tempered


def _outside(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exponentials of the entries outside ``ids``, relative to the largest of them; their sum; the log of their mass.

    Where nothing is outside, the sum is 1 and the log is -inf.
    """
    mass = logits.scatter(-1, ids, -torch.inf)
    peak = mass.amax(-1, keepdim=True)
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    mass.sub_(peak).exp_()
    total = mass.sum(-1)
    empty = total == 0
    total.masked_fill_(empty, 1.0)
    return mass, total, (total.log() + peak.squeeze(-1)).masked_fill_(empty, -torch.inf)


class _LogTailMass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        mass, total, log_mass = _outside(logits, ids)
        ctx.save_for_backward(mass, total)
        return log_mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mass, total = ctx.saved_tensors
        return mass * (grad / total).unsqueeze(-1), None


def log_tail_mass(logits: Tensor, ids: Tensor) -> Tensor:
    """Unnormalised log-mass outside a support: ``logsumexp`` over the entries that are not in ``ids``.

    It is a sum over the complement. ``log(1 - sum of the rest)`` loses every digit where the rest is nearly one.

    Args:
        logits: [..., V].
        ids: The support, distinct entries, int64 [..., K].

    Returns:
        [...]; -inf, with gradient 0, where nothing is outside.
    """
    result: Tensor = _LogTailMass.apply(logits, ids)
    return result


class _OnSupport(torch.autograd.Function):
    """Log-probabilities on a support and of the rest, with a gradient that is written once."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        mass, total, log_mass = _outside(logits, ids)
        logprobs = torch.log_softmax(torch.cat([logits.gather(-1, ids), log_mass.unsqueeze(-1)], -1), -1)
        ctx.save_for_backward(mass, total, ids, logprobs)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mass, total, ids, logprobs = ctx.saved_tensors
        grad = grad - logprobs.exp() * grad.sum(-1, keepdim=True)
        return mass.mul_((grad[..., -1] / total).unsqueeze(-1)).scatter_(-1, ids, grad[..., :-1]), None


def on_support(logits: Tensor, ids: Tensor, *, tail: bool, temperature: float = 1.0) -> Tensor:
    """A distribution seen on a few entries only, as log-probabilities that add up to one.

    Args:
        logits: [..., V].
        ids: The support, distinct entries, int64 [..., K].
        tail: Add one bucket with the mass outside the support; otherwise renormalise on the support.
        temperature: Divides the logits.

    Returns:
        [..., K + 1] with the tail last, or [..., K].
    """
    scaled = tempered(logits, temperature)
    if tail:
        result: Tensor = _OnSupport.apply(scaled, ids)
        return result
    return torch.log_softmax(scaled.gather(-1, ids), -1)


def top_k_with_tail(
    student_logits: Tensor, teacher_logits: Tensor, k: int, *, tail: bool = True, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Both distributions on the student's k most likely entries (arXiv 2601.20802).

    The teacher is read at the same entries. With ``k >= V`` both are complete.

    Args:
        student_logits: [..., V].
        teacher_logits: [..., V].
        k: Size of the support (the paper: 100).
        tail: One more bucket per side with the mass outside the support; otherwise both are renormalised on it.
        temperature: Divides both logits.

    Returns:
        Student and teacher log-probabilities, each [..., K + 1] with a tail, else [..., K].

    Example:
        >>> student, teacher = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 3.0])
        >>> [round(x.exp().sum().item(), 4) for x in top_k_with_tail(student, teacher, 1)]
        [1.0, 1.0]
    """
    ids = student_logits.detach().topk(min(k, student_logits.shape[-1]), dim=-1).indices
    student = on_support(student_logits, ids, tail=tail, temperature=temperature)
    return student, on_support(teacher_logits.detach(), ids, tail=tail, temperature=temperature)
