"""Divergences between a student and a teacher distribution, token by token.

S is the student, T the teacher; T is a constant. Everything is in nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_sdpo.functional.precision import at_least_float32, fill_masked, tempered

_BLOCK_ELEMENTS = 2**16
"""Entries of a block of rows: a handful of such blocks fit the cache."""

_EVEN = 0.5
_LEAST, _FURTHEST = -1e30, 104.0  # exp(-104) is 0 in float32


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities ``log softmax(logits / temperature)``, in float32 or better.

    Args:
        logits: [..., V].
        temperature: Divides the logits; that of sampling.
    """
    return torch.log_softmax(tempered(logits, temperature), -1)


def mix_logits(reference_logits: Tensor, teacher_logits: Tensor, mix: float) -> Tensor:
    """Trust-region teacher: ``(1 - mix) * reference_logits + mix * teacher_logits``.

    In probabilities this is the normalised geometric mean of the two, so the mixture stays near the reference. The
    upstream SDPO code mixes a frozen reference with the current weights this way (arXiv 2601.20802).

    Args:
        reference_logits: [..., V].
        teacher_logits: [..., V].
        mix: Share of ``teacher_logits``, in [0, 1]. 0 and 1 return one side exactly, even where the other is infinite.
    """
    if mix == 0:
        return reference_logits
    if mix == 1:
        return teacher_logits
    return (1 - mix) * reference_logits + mix * teacher_logits


def _value_and_gradient(student: Tensor, teacher: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The divergence [...] of log-probabilities [..., K], and its gradient by the student's.

    S is normalised, so a multiple of S may be added to the gradient without changing what arrives at the logits. It is
    chosen such that the gradient adds up to zero: it then vanishes entry by entry where S = T, the softmax backward has
    no large terms left to cancel at confident tokens, and it is the gradient by the logits themselves.
    """
    s, t = student.exp(), teacher.exp()

    def expected(mass: Tensor, log_ratio: Tensor) -> Tensor:
        return log_ratio.mul_(mass).masked_fill_(mass == 0, 0.0)  # 0 log 0 = 0

    if alpha == 0:
        return expected(t, teacher - student).sum(-1), s - t
    if alpha == 1:
        gradient = expected(s, student - teacher)
        total = gradient.sum(-1)
    else:
        # log(M/S) and log(M/T) from d = log(T/S): exact at d = 0, where little is taken off 1, and without overflow at
        # either end, where what is left of 1 would be lost to rounding, and all of it at a small alpha.
        d = teacher - student
        above, ratio = d > 0, d.abs().neg_()
        of_student, of_teacher = d.new_tensor(1 - alpha), d.new_tensor(alpha)
        share, rest = torch.where(above, of_student, of_teacher), torch.where(above, of_teacher, of_student)
        lost = torch.expm1(ratio).mul_(share)
        left = ratio.exp_().mul_(share).add_(rest)
        common = torch.where(lost > -0.5, lost.log1p(), left.log_())
        gradient = expected(s, torch.clamp(d, min=0).add_(common)).mul_(alpha - 1)
        total = gradient.sum(-1) - alpha * expected(t, common.sub_(d.clamp_(max=0))).sum(-1)
    return total, gradient.addcmul_(s, gradient.sum(-1, keepdim=True), value=-1)


class _Divergence(torch.autograd.Function):
    """Value and gradient in one pass; one [..., K] tensor is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
        total, gradient = _value_and_gradient(student, teacher, alpha)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output.unsqueeze(-1) * gradient, None, None


class _LogitDivergence(torch.autograd.Function):
    """The same from logits [M, V], a few rows at a time: what is in between stays in the cache."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
        total, gradient = student.new_empty(len(student)), torch.empty_like(student)
        size = max(1, _BLOCK_ELEMENTS // student.shape[-1])
        ctx.scale = 1.0
        for start in range(0, len(student), size):
            rows = slice(start, start + size)
            if alpha == _EVEN:
                total[rows] = _jensen_shannon(student[rows], teacher[rows], gradient[rows])
                ctx.scale = -_EVEN
            else:
                s, t = torch.log_softmax(student[rows], -1), torch.log_softmax(teacher[rows], -1)
                total[rows], gradient[rows] = _value_and_gradient(s, t, alpha)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_((grad_output * ctx.scale).unsqueeze(-1)), None, None


def _jensen_shannon(student: Tensor, teacher: Tensor, gradient: Tensor) -> Tensor:
    """:func:`_value_and_gradient` at one half, from logits and in the fewest passes; ``gradient`` becomes -2 times it.

    log(M/S) = max(d, 0) + log((1 + exp(-abs d)) / 2) with d = log(T/S), and log(M/T) is that minus d. Beyond
    ``_FURTHEST`` one side's probability is 0 in float32, and so is its product with the bounded d.
    """
    s, t = torch.softmax(student, -1), torch.softmax(teacher, -1)
    # log S - log T is the difference of the logits but for their normalisers.
    norm = (student.amax(-1) - s.amax(-1).log()) - (teacher.amax(-1) - t.amax(-1).log())
    d = teacher.clamp(min=_LEAST).sub_(student.clamp(min=_LEAST)).add_(norm.unsqueeze(-1))
    d.clamp_(-_FURTHEST, _FURTHEST)
    ratio = torch.abs(d).neg_().expm1_().mul_(0.5).log1p_().add_(torch.clamp(d, min=0))  # log(M/S)
    of_student = torch.mul(s, ratio, out=gradient).sum(-1)
    gradient.addcmul_(s, of_student.unsqueeze(-1), value=-1)
    return (of_student + ratio.sub_(d).mul_(t).sum(-1)).mul_(-0.5)


def divergence(student_logprobs: Tensor, teacher_logprobs: Tensor, alpha: float, mask: Tensor | None = None) -> Tensor:
    """Divergence of the alpha family between two distributions.

    ``alpha = 0`` is KL(T‖S), ``alpha = 1`` is KL(S‖T), and between them the Jensen-Shannon form::

        (1 - alpha) KL(S‖M) + alpha KL(T‖M),    M = (1 - alpha) S + alpha T

    with values up to ``-alpha ln alpha - (1 - alpha) ln(1 - alpha)`` (ln 2 at one half). The family is not continuous
    at its ends: JSD_alpha / alpha tends to KL(T‖S) as alpha tends to 0, JSD_alpha itself to 0. This is ``alpha`` of
    arXiv 2601.20802's code; the ``beta`` of arXiv 2607.01763's formula is ``1 - alpha``.

    Args:
        student_logprobs: log S, normalised, [..., K]; -inf means impossible.
        teacher_logprobs: log T, normalised, [..., K]; never receives a gradient.
        alpha: In [0, 1].
        mask: True at active places, [...]; elsewhere the result is 0.

    Returns:
        [...], in float32 or better.

    Raises:
        ValueError: ``alpha`` is outside [0, 1].

    Example:
        >>> certain, even = torch.tensor([0.0, -torch.inf]), torch.tensor([0.5, 0.5]).log()
        >>> round(divergence(certain, even, alpha=1.0).item(), 4)
        0.6931
    """
    _check_alpha(alpha)
    student = fill_masked(at_least_float32(student_logprobs), mask)
    teacher = fill_masked(at_least_float32(teacher_logprobs.detach()), mask)
    result: Tensor = _Divergence.apply(student, teacher, float(alpha))
    return fill_masked(result, mask)


def logit_divergence(student_logits: Tensor, teacher_logits: Tensor, alpha: float, temperature: float = 1.0) -> Tensor:
    """:func:`divergence` over the whole vocabulary, from logits and in less memory.

    Args:
        student_logits: [..., V].
        teacher_logits: [..., V]; never receives a gradient.
        alpha: In [0, 1].
        temperature: Divides both logits.

    Returns:
        [...], in float32 or better.

    Raises:
        ValueError: ``alpha`` is outside [0, 1].
    """
    _check_alpha(alpha)
    student, teacher = (tempered(x, temperature).flatten(0, -2) for x in (student_logits, teacher_logits.detach()))
    result: Tensor = _LogitDivergence.apply(student, teacher, float(alpha))
    return result.view(student_logits.shape[:-1])


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")


def sampled_divergence(
    student_token_logprobs: Tensor, teacher_token_logprobs: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Surrogate of KL(S‖T) from the sampled tokens alone: ``stopgrad(log S(y) - log T(y)) * log S(y)``.

    Over tokens drawn from S its gradient is that of the full KL(S‖T); its value is not the KL.

    Args:
        student_token_logprobs: log S(y), [...].
        teacher_token_logprobs: log T(y), [...].
        mask: True at active places, [...].
    """
    student = fill_masked(at_least_float32(student_token_logprobs), mask)
    teacher = fill_masked(at_least_float32(teacher_token_logprobs), mask)
    return (student - teacher).detach() * student


def squared_hellinger(student_logprobs: Tensor, teacher_logprobs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared Hellinger distance ``1/2 sum (sqrt S - sqrt T)^2 = 1 - sum sqrt(S T)``, in [0, 1].

    Bounded with a bounded gradient, also where one side is impossible (used by arXiv 2607.06855).

    Args:
        student_logprobs: log S, normalised, [..., K].
        teacher_logprobs: log T, normalised, [..., K]; never receives a gradient.
        mask: True at active places, [...].
    """
    student = fill_masked(at_least_float32(student_logprobs), mask)
    teacher = fill_masked(at_least_float32(teacher_logprobs.detach()), mask)
    return ((student / 2).exp() - (teacher / 2).exp()).square().sum(-1) / 2


def squared_fisher_rao(student_logprobs: Tensor, anchor_logprobs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared geodesic distance ``d^2``, ``d = 2 arccos sum sqrt(S A)``, in [0, pi^2] (used by arXiv 2607.06855).

    Computed as ``16 arcsin^2 sqrt(h / 2)`` from the squared Hellinger distance h, with its series near 0, where the
    arccos has neither digits nor a gradient. For small changes it is eight times the squared Hellinger distance.

    Args:
        student_logprobs: log S, normalised, [..., K].
        anchor_logprobs: log A, normalised, [..., K]; never receives a gradient.
        mask: True at active places, [...].

    Example:
        >>> even = torch.tensor([0.5, 0.5]).log()
        >>> squared_fisher_rao(even, even).item()
        0.0
    """
    u = squared_hellinger(student_logprobs, anchor_logprobs, mask) / 2
    near = u < 1e-4
    far = torch.where(near, 0.25, u.clamp(max=1 - 1e-7)).sqrt().arcsin().square()
    return 16 * torch.where(near, u + u.square() / 3, far)
