"""Weights that correct for tokens drawn from another distribution than the one in training. None has a gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32, fill_masked


def mismatch_weights(
    old_logprobs: Tensor,
    rollout_logprobs: Tensor,
    *,
    level: Literal["token", "sequence"] = "token",
    mode: Literal["truncate", "mask"] = "truncate",
    cap: float = 2.0,
    floor: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Importance weights between the trainer and the engine that sampled, for the same policy.

    ``rho = exp(old - rollout)`` per token, or ``exp(sum over the row)`` for ``level="sequence"``. ``truncate`` gives
    ``min(rho, cap)`` (truncated importance sampling); ``mask`` gives ``rho`` where ``floor <= rho <= cap``, else 0
    (IcePop).

    Args:
        old_logprobs: Of the sampled tokens as the trainer computes them, [N, T], or [M] for tokens.
        rollout_logprobs: The same as the engine reported them.
        level: One weight per token or per row.
        mode: What happens outside the range.
        cap: Upper end of the range.
        floor: Lower end; used by ``mask``.
        mask: True at sampled tokens; elsewhere the weight is 0.

    Returns:
        Weights, shaped as ``old_logprobs``.

    Example:
        >>> mismatch_weights(torch.tensor([[0.0, 0.0]]), torch.tensor([[-3.0, 0.0]]))
        tensor([[2., 1.]])
    """
    log_ratio = fill_masked(at_least_float32(old_logprobs.detach()), mask)
    log_ratio = log_ratio - fill_masked(at_least_float32(rollout_logprobs.detach()), mask)
    if level == "sequence":
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    rho = log_ratio.exp()
    if mode == "truncate":
        rho = rho.clamp(max=cap)
    elif mode == "mask":
        rho = torch.where((rho >= floor) & (rho <= cap), rho, 0.0)
    else:
        raise ValueError(f"unknown mode {mode!r}")
    return fill_masked(rho, mask)


def importance_clip(logprobs: Tensor, old_logprobs: Tensor, clip: float, mask: Tensor | None = None) -> Tensor:
    """Bounded ratio of the student to the policy that made the rollouts.

    ``min(exp(clamp(log S(y) - old, -20, 20)), clip)``, without gradient (arXiv 2601.20802; the paper: ``clip = 2``).

    Args:
        logprobs: log S(y) of the sampled tokens, [...].
        old_logprobs: The same when they were sampled.
        clip: Largest weight.
        mask: True at active tokens; elsewhere the weight is 1.
    """
    log_ratio = fill_masked(at_least_float32(logprobs.detach()), mask)
    log_ratio = log_ratio - fill_masked(at_least_float32(old_logprobs.detach()), mask)
    return log_ratio.clamp(-20.0, 20.0).exp().clamp(max=clip)
