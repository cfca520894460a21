"""How far apart two sets of features, or two distributions over tokens, are."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_sdpo.functional.policy_loss import kl_penalty
from lit_sdpo.functional.precision import at_least_float32, fill_masked


def median_distance(x: Tensor, y: Tensor) -> Tensor:
    """Median Euclidean distance of the pooled rows, each pair once; mean of the middle two for an even count.

    Args:
        x: [n, d].
        y: [m, d].
    """
    distances = torch.nn.functional.pdist(at_least_float32(torch.cat([x, y]))).sort().values
    middle = len(distances) // 2
    return (distances[middle] + distances[-middle - 1]) / 2


def squared_mmd(
    x: Tensor, y: Tensor, *, sigma: Tensor | float | None = None, unbiased: bool = True
) -> tuple[Tensor, Tensor]:
    """Squared maximum mean discrepancy with the kernel ``k = exp(-‖a - b‖^2 / (2 sigma^2))`` (Gretton et al. 2012).

    Unbiased (U-statistic): ``mean_{i!=j} k(x_i, x_j) + mean_{i!=j} k(y_i, y_j) - 2 mean k(x_i, y_j)``, which may be
    negative. Biased (V-statistic): the same with all pairs, never negative and 0 for identical sets.

    Args:
        x: Features, [n, d]; n at least 2 when unbiased.
        y: Features, [m, d]; m at least 2 when unbiased.
        sigma: Bandwidth; ``None`` takes :func:`median_distance`. At 0 the kernel is 1 for equal rows and else 0.
        unbiased: Leave out the pairs of a row with itself.

    Returns:
        The squared MMD and the bandwidth.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    width = median_distance(x, y) if sigma is None else torch.as_tensor(sigma, dtype=x.dtype, device=x.device)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.where(distance == 0, 1.0, (-(distance / width).square() / 2).exp())

    def within(a: Tensor) -> Tensor:
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.trace()) / (n * (n - 1)) if unbiased else k.mean()

    return within(x) + within(y) - 2 * kernel(x, y).mean(), width


def kl_estimates(logprobs: Tensor, other_logprobs: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Estimates of KL(p‖q) from tokens drawn from p, averaged over the active ones.

    ``k1 = log p - log q``, ``k2 = k1^2 / 2``, ``k3 = q/p - log(q/p) - 1`` (J. Schulman, "Approximating KL divergence",
    2020). k1 and k3 are unbiased; k3 varies less and is never negative.

    Args:
        logprobs: log p of the tokens, [...].
        other_logprobs: log q of the same tokens, [...].
        mask: True at active tokens.

    Returns:
        Scalars ``k1``, ``k2`` and ``k3``; 0 where nothing is active.
    """
    n = logprobs.numel() if mask is None else mask.sum().clamp(min=1)
    return {
        kind: fill_masked(kl_penalty(logprobs, other_logprobs, kind, mask=mask), mask).sum() / n  # type: ignore[arg-type]
        for kind in ("k1", "k2", "k3")
    }


def total_variation(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """``1/2 sum |p - q|``, in [0, 1].

    Args:
        logprobs: log p, normalised, [..., V].
        other_logprobs: log q, normalised, [..., V].
    """
    return (at_least_float32(logprobs).exp() - at_least_float32(other_logprobs).exp()).abs().sum(-1) / 2
