"""The SDPO loss of each token: a divergence to the teacher, times a bounded importance weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_sdpo.functional.divergence import divergence, logit_divergence, sampled_divergence
from lit_sdpo.functional.importance import importance_clip as clipped_ratio
from lit_sdpo.functional.precision import fill_masked, tempered
from lit_sdpo.functional.top_k import top_k_with_tail


class _TokenLogprobs(torch.autograd.Function):
    """``log softmax(logits)[ids]``; the softmax is made once and becomes the gradient where it stands."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        probabilities = torch.softmax(logits, -1)
        ctx.save_for_backward(probabilities, ids)
        # The likeliest token's probability is at least 1 / V: its log has all digits.
        chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        return (chosen - logits.amax(-1)).add_(probabilities.amax(-1).log_())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probabilities, ids = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return probabilities.mul_(-grad).scatter_add_(-1, ids.unsqueeze(-1), grad), None


def token_logprobs_from_logits(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token.

    Its gradient overwrites what the forward pass kept, so a graph it is in serves one backward pass.

    Args:
        logits: [..., V].
        ids: int64 [...].
        temperature: Divides the logits.
    """
    result: Tensor = _TokenLogprobs.apply(tempered(logits, temperature), ids)
    return result


def sdpo_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    ids: Tensor | None = None,
    *,
    alpha: float | None = 0.5,
    top_k: int | None = None,
    tail: bool = True,
    temperature: float = 1.0,
    old_logprobs: Tensor | None = None,
    importance_clip: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Self-distillation loss of each token (arXiv 2601.20802; arXiv 2607.01763, section 2.3).

    ``D(S, T) * min(exp(clamp(log S(y) - old, -20, 20)), importance_clip)``: the teacher sees the same completion after
    a richer prompt, its logits at a position predict the same token y. The second factor has no gradient.

    Args:
        student_logits: [..., V].
        teacher_logits: [..., V]; never receives a gradient.
        ids: Sampled tokens y, int64 [...]. Needed by ``importance_clip`` and by ``alpha=None``.
        alpha: Divergence, see :func:`lit_sdpo.functional.divergence.divergence`; ``None`` estimates KL(S‖T) from the
            sampled tokens alone.
        top_k: Compare on the student's k most likely tokens; ``None`` on the whole vocabulary.
        tail: With ``top_k``: add the mass outside as one bucket; otherwise renormalise.
        temperature: Divides both logits.
        old_logprobs: log S(y) at rollout, [...].
        importance_clip: Largest importance weight (the paper: 2); ``None`` leaves the factor out.
        mask: True at active tokens, [...]; elsewhere the loss is 0.

    Returns:
        [...], in float32 or better.

    Raises:
        ValueError: ``ids`` or ``old_logprobs`` is missing.
    """
    student_logits = fill_masked(student_logits, mask)
    teacher_logits = fill_masked(teacher_logits.detach(), mask)
    ids = None if ids is None else fill_masked(ids, mask, 0)
    if alpha is None:
        if ids is None:
            raise ValueError("alpha=None compares at the sampled tokens: ids is needed")
        student_token = token_logprobs_from_logits(student_logits, ids, temperature)
        loss = sampled_divergence(student_token, token_logprobs_from_logits(teacher_logits, ids, temperature))
    elif top_k is None:
        loss = logit_divergence(student_logits, teacher_logits, alpha, temperature)
    else:
        loss = divergence(
            *top_k_with_tail(student_logits, teacher_logits, top_k, tail=tail, temperature=temperature), alpha
        )
    if importance_clip is not None:
        if ids is None or old_logprobs is None:
            raise ValueError("importance_clip needs ids and old_logprobs")
        student_token = token_logprobs_from_logits(student_logits.detach(), ids, temperature)
        loss = loss * clipped_ratio(student_token, old_logprobs, importance_clip, mask)
    return fill_masked(loss, mask)
