"""Elastic weight consolidation in its online form: hold the weights that earlier stages' losses depend on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32


@torch.no_grad()
def fisher_diagonal(gradients: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Diagonal of the empirical Fisher information: ``mean over samples of gradient^2``, entry by entry.

    Squares are averaged, not gradients: one gradient for each sample, never that of a batch.

    Args:
        gradients: For each sample, the gradient of its log-likelihood, one tensor for each weight. A generator is read
            sample by sample, so one sample's gradients are in memory at a time.

    Returns:
        One tensor for each weight, in float32 or better.

    Raises:
        ValueError: There is no sample, or samples have other numbers of tensors.

    Example:
        >>> fisher_diagonal([[torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 2.0])]])
        [tensor([1., 2.])]
    """
    total: list[Tensor] = []
    samples = 0
    for sample in gradients:
        squares = [at_least_float32(gradient).square() for gradient in sample]
        total = [a.add_(b) for a, b in zip(total, squares, strict=True)] if samples else squares
        samples += 1
    if not samples:
        raise ValueError("the Fisher information needs at least one sample")
    return [fisher.div_(samples) for fisher in total]


@torch.no_grad()
def decayed_fisher(fisher: Sequence[Tensor], stage: Sequence[Tensor], gamma: float) -> list[Tensor]:
    """Importance after one more stage: ``gamma * fisher + stage`` (arXiv 1805.06370).

    Args:
        fisher: Importance of each weight after the stages before.
        stage: :func:`fisher_diagonal` of the stage that has ended.
        gamma: What is left of earlier stages, in [0, 1]; 1 forgets none, 0 all of them.

    Raises:
        ValueError: ``gamma`` is outside [0, 1], or the lengths differ.

    Example:
        >>> decayed_fisher([torch.tensor([1.0])], [torch.tensor([0.5])], gamma=0.9)
        [tensor([1.4000])]
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    return [now + gamma * before.to(now) for before, now in zip(fisher, stage, strict=True)]


def ewc_penalty(
    weights: Sequence[Tensor], anchor: Sequence[Tensor], fisher: Sequence[Tensor], strength: float
) -> Tensor:
    """``strength / 2 * sum fisher (weights - anchor)^2``; differentiable in the weights.

    Public code has one more factor gamma here (``strength * gamma`` gives its numbers).

    Args:
        weights: In training.
        anchor: The weights when the last stage ended.
        fisher: Their importance, from :func:`decayed_fisher`.
        strength: Factor, at least 0.

    Returns:
        A scalar, in float32 or better.

    Raises:
        ValueError: ``strength`` is negative, or the lengths differ.

    Example:
        >>> ewc_penalty([torch.tensor([1.0, 1.0])], [torch.tensor([0.0, 3.0])], [torch.tensor([2.0, 0.5])], 1.0)
        tensor(2.)
    """
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0, got {strength}")
    parts = [
        (importance.detach() * (at_least_float32(weight) - fixed.detach()).square()).sum()
        for weight, fixed, importance in zip(weights, anchor, fisher, strict=True)
    ]
    return strength / 2 * torch.stack(parts).sum() if parts else torch.zeros(())
