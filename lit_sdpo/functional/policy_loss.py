"""Policy-gradient losses per token: PPO clip, GSPO, CISPO, and KL penalties.

``r = exp(logprobs - old_logprobs)`` is the ratio of the current policy to the one that made the rollouts, A the
advantage. On the first update of fresh rollouts r is 1 and each loss has the gradient ``-A * grad logprobs``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32, fill_masked

KLEstimator = Literal["k1", "k2", "k3"]

_MAX_LOG_RATIO = 20.0  # exp(20) is 5e8: a single token cannot overflow float32


class PolicyLoss(NamedTuple):
    """Loss and clipping of each token; reduce them with :func:`lit_sdpo.functional.reduce.aggregate`.

    Attributes:
        per_token: Loss of each token, 0 outside the mask.
        clipped_low: True where the ratio was below its range and that stopped the gradient.
        clipped_high: True where the ratio was above its range and that stopped the gradient.
    """

    per_token: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def _per_token(advantages: Tensor, logprobs: Tensor) -> Tensor:
    advantages = at_least_float32(advantages.detach())
    if advantages.dim() < logprobs.dim():
        advantages = advantages.unsqueeze(-1)
    return advantages.expand_as(logprobs)


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor | None) -> Tensor:
    current = fill_masked(at_least_float32(logprobs), mask)
    return current - fill_masked(at_least_float32(old_logprobs.detach()), mask)


def _clipped_loss(
    ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None, mask: Tensor | None
) -> PolicyLoss:
    advantages = fill_masked(advantages, mask)
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    if dual is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual * advantages), loss)
    return PolicyLoss(loss, (ratio < 1 - low) & (advantages < 0), (ratio > 1 + high) & (advantages > 0))


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    low: float = 0.2,
    high: float = 0.2,
    dual: float | None = None,
    mask: Tensor | None = None,
) -> PolicyLoss:
    """Clipped surrogate ``-min(r A, clip(r, 1 - low, 1 + high) A)`` (arXiv 1707.06347).

    GRPO, Dr. GRPO and DAPO share it and differ in advantages and aggregation; DAPO's wider upper range is
    ``high=0.28`` (arXiv 2503.14476). Log-ratios beyond ±20 count as ±20.

    Args:
        logprobs: Of the sampled tokens under the policy, [N, T] or [M].
        old_logprobs: The same under the policy that made the rollouts; no gradient.
        advantages: [N], or one per token.
        low: Width of the range below 1.
        high: Width of the range above 1.
        dual: Where A < 0 the loss is at most ``-dual * A``; above 1 (dual clip, arXiv 1912.09729).
        mask: True at active tokens; what stands elsewhere changes nothing.

    Example:
        >>> loss = ppo_loss(torch.tensor([[0.0]]), torch.tensor([[-1.0]]), torch.tensor([1.0]), high=0.28)
        >>> round(loss.per_token.item(), 2), loss.clipped_high.item()
        (-1.28, True)
    """
    ratio = _log_ratio(logprobs, old_logprobs, mask).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    return _clipped_loss(ratio, _per_token(advantages, logprobs), low, high, dual, mask)


def _mean_log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over each row's active tokens, [N, 1]; 0 for a row without any."""
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    length = torch.full_like(log_ratio[..., :1], log_ratio.shape[-1]) if mask is None else mask.sum(-1, keepdim=True)
    return log_ratio.sum(-1, keepdim=True) / length.clamp(min=1)


def sequence_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Length-normalised ratio of whole rows: ``exp(mean over the active tokens of (logprobs - old_logprobs))``.

    GSPO's (arXiv 2507.18071); differentiable in ``logprobs``.

    Args:
        logprobs: Of the sampled tokens under the policy, [N, T].
        old_logprobs: The same under the policy that made the rollouts; no gradient.
        mask: True at active tokens, [N, T].

    Returns:
        [N], 1 for a row without an active token.

    Example:
        >>> mask = torch.tensor([[True, True], [False, False]])
        >>> sequence_ratios(torch.tensor([[0.0, -1.0], [5.0, 5.0]]), torch.zeros(2, 2), mask)
        tensor([0.6065, 1.0000])
    """
    return _mean_log_ratio(logprobs, old_logprobs, mask).squeeze(-1).exp()


def gspo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    low: float = 3e-4,
    high: float = 4e-4,
    mask: Tensor | None = None,
) -> PolicyLoss:
    """PPO's surrogate with one ratio per sequence (arXiv 2507.18071).

    ``s`` of :func:`sequence_ratios` stands for r at each token of its row; the gradient goes through s. Meant for
    ``seq_mean_token_mean``. Mean log-ratios beyond ±20 count as ±20.

    Args:
        logprobs: [N, T].
        old_logprobs: [N, T]; no gradient.
        advantages: [N], or one per token.
        low: Width of the range below 1.
        high: Width of the range above 1.
        mask: True at active tokens, [N, T].
    """
    mean = _mean_log_ratio(logprobs, old_logprobs, mask)
    ratio = mean.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp().expand_as(logprobs)
    return _clipped_loss(ratio, _per_token(advantages, logprobs), low, high, None, mask)


def cispo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    ratio_min: float = 0.0,
    ratio_max: float = 5.0,
    mask: Tensor | None = None,
) -> PolicyLoss:
    """Clipped weight, unclipped gradient: ``-stopgrad(clip(r, ratio_min, ratio_max)) A logprobs`` (arXiv 2506.13585).

    Every token keeps a gradient, so ``clipped_low`` and ``clipped_high`` say where the weight was bounded.

    Args:
        logprobs: [N, T] or [M].
        old_logprobs: As ``logprobs``; no gradient.
        advantages: [N], or one per token.
        ratio_min: Smallest weight, absolute.
        ratio_max: Largest weight, absolute.
        mask: True at active tokens.
    """
    current = fill_masked(at_least_float32(logprobs), mask)
    ratio = _log_ratio(logprobs, old_logprobs, mask).detach().exp()
    loss = -ratio.clamp(ratio_min, ratio_max) * fill_masked(_per_token(advantages, logprobs), mask) * current
    return PolicyLoss(loss, ratio < ratio_min, ratio > ratio_max)


def kl_penalty(
    logprobs: Tensor, reference_logprobs: Tensor, estimator: KLEstimator = "k3", *, mask: Tensor | None = None
) -> Tensor:
    """Per-token estimate of KL(policy‖reference), differentiated as it stands.

    With ``d = logprobs - reference_logprobs``: k1 is ``d``, k2 ``d^2 / 2``, k3 ``exp(-d) + d - 1`` (J. Schulman,
    "Approximating KL divergence", 2020).

    Args:
        logprobs: Of the sampled tokens under the policy, [...].
        reference_logprobs: The same under the reference; no gradient.
        estimator: k1 and k3 are unbiased in value, k2 in gradient; k2 and k3 are never negative.
        mask: True at active tokens; elsewhere the penalty is 0.

    Raises:
        ValueError: Unknown estimator.
    """
    d = _log_ratio(logprobs, reference_logprobs, mask)
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        return torch.expm1(-d) + d
    raise ValueError(f"unknown estimator {estimator!r}")
