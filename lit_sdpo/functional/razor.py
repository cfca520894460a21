"""The theory of arXiv 2607.01763 (section 5.3, appendix B), exact on finite spaces.

A base policy P_0 with full support answers a prompt. S is the set of successes and z = P_0(S). Among all policies
with success alpha, one stays nearest to P_0: the razor policy Q. What any other policy with the same success has on top
is its excess KL. Logarithms are natural.

Responses are either listed flat, [Y], or as sequences over a tree of tokens: [V, V, ..., V], one dimension per token.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32


def kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p‖q) = sum p log(p / q)`` over all entries, with ``0 log 0 = 0``; inf where q is 0 and p is not.

    Args:
        p: Probabilities, any shape.
        q: Probabilities, the same shape.
    """
    p, q = at_least_float32(p), at_least_float32(q)
    return torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum()


def binary_kl(a: Tensor, b: Tensor) -> Tensor:
    """``kl(a‖b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b))``, elementwise.

    Args:
        a: Success rates in [0, 1], [...].
        b: Success rates in [0, 1], [...].

    Example:
        >>> binary_kl(torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.5]))
        tensor([0.6931, 0.0000])
    """
    a, b = torch.broadcast_tensors(at_least_float32(a), at_least_float32(b))

    def part(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x > 0, x * (x.log() - y.log()), 0.0)

    return part(a, b) + part(1 - a, 1 - b)


def success_weights(base: Tensor, success: Tensor, alpha: float | Tensor) -> Tensor:
    """``w(y) = alpha / z`` on successes and ``(1 - alpha) / (1 - z)`` elsewhere; the razor policy is ``P_0 w``.

    Args:
        base: P_0, any shape.
        success: S, bool, the same shape.
        alpha: Success rate of the target.

    Raises:
        ValueError: P_0 never succeeds or never fails.
    """
    base = at_least_float32(base)
    z = base[success].sum()
    if not 0 < z < 1:
        raise ValueError(f"the base policy must succeed and fail with positive probability, got z = {float(z)}")
    return torch.where(success, alpha / z, (1 - alpha) / base[~success].sum())


def razor_policy(base: Tensor, success: Tensor, alpha: float | Tensor) -> Tensor:
    """The policy with success ``alpha`` that is nearest to the base in KL(Q‖P_0) (Lemma 2).

    ``Q = alpha P_0(. | S) + (1 - alpha) P_0(. | not S)``, with ``KL(Q‖P_0) = kl(alpha‖z)``.

    Args:
        base: P_0, any shape.
        success: S, bool, the same shape.
        alpha: Success rate of the target, in [0, 1].

    Example:
        >>> razor_policy(torch.tensor([0.2, 0.2, 0.6]), torch.tensor([True, True, False]), 0.8)
        tensor([0.4000, 0.4000, 0.2000])
    """
    return at_least_float32(base) * success_weights(base, success, alpha)


def prefix_probabilities(sequences: Tensor) -> list[Tensor]:
    """Probability of each prefix: entry t is [V] * t, from the empty prefix (a scalar) to whole sequences.

    Args:
        sequences: Probabilities of all sequences of length T, [V, ..., V] with T dimensions.
    """
    length = sequences.dim()
    return [*(sequences.sum(tuple(range(t, length))) for t in range(length)), sequences]


def token_kernels(sequences: Tensor) -> list[Tensor]:
    """Next-token distributions of a sequence law: entry t is [V] * (t + 1), normalised over its last dimension.

    For the razor policy these are ``q(a | h) = pi_0(a | h) C(ha) / C(h)`` with ``C(h) = E[w(y) | h]`` under P_0 (Lemma
    3); as alpha tends to 1, ``pi_0(a | h) Pr(S | ha) / Pr(S | h)``. Prefixes of probability 0 give nan.

    Args:
        sequences: [V, ..., V].
    """
    prefixes = prefix_probabilities(sequences)
    return [longer / shorter.unsqueeze(-1) for shorter, longer in pairwise(prefixes)]


def razor_token_kernels(base: Tensor, success: Tensor, alpha: float | Tensor) -> list[Tensor]:
    """Lemma 3's token kernel from the base's: ``pi_0(a | h) C(ha) / C(h)`` with ``C(h) = E[w(y) | h]`` under P_0.

    Args:
        base: P_0 over sequences, [V, ..., V].
        success: S, bool, the same shape.
        alpha: Success rate of the target.

    Returns:
        Entry t: [V] * (t + 1).
    """
    base = at_least_float32(base)
    mass = prefix_probabilities(base)
    expectation = [w / p for w, p in zip(prefix_probabilities(razor_policy(base, success, alpha)), mass, strict=True)]
    return [
        kernel * longer / shorter.unsqueeze(-1)
        for kernel, (shorter, longer) in zip(token_kernels(base), pairwise(expectation), strict=True)
    ]


def excess_reverse_kl(policy: Tensor, base: Tensor, success: Tensor) -> Tensor:
    """``KL(P‖P_0) - kl(alpha‖z)`` with alpha = P(S): what P moved beyond what its success needs (Theorem 1).

    It equals ``KL(P‖Q)`` with the razor policy Q of the same success, and the sum over tokens of the expected KL from
    P's next-token distribution to Q's; so it is never negative. It holds for every policy, however it was trained.

    Args:
        policy: P, any shape.
        base: P_0, the same shape.
        success: S, bool, the same shape.
    """
    policy, base = at_least_float32(policy), at_least_float32(base)
    return kl(policy, base) - binary_kl(policy[success].sum(), base[success].sum())


def excess_forward_kl(policy: Tensor, base: Tensor, success: Tensor) -> Tensor:
    """``KL(P_0‖P) - KL(P_0‖Q)`` with the razor policy Q of the same success (Proposition 4).

    It equals ``z KL(P_0(.|S)‖P(.|S)) + (1 - z) KL(P_0(.|not S)‖P(.|not S))``, never negative.

    Args:
        policy: P, any shape.
        base: P_0, the same shape.
        success: S, bool, the same shape.
    """
    policy, base = at_least_float32(policy), at_least_float32(base)
    return kl(base, policy) - kl(base, razor_policy(base, success, policy[success].sum()))


def excess_kl_estimate(
    logprobs: Tensor, base_logprobs: Tensor, success_rate: Tensor, base_success_rate: Tensor
) -> Tensor:
    """Excess reverse KL of each prompt from samples: mean log-ratio less the binary KL of the success rates.

    ``mean_k [log P(y_k) - log P_0(y_k)] - kl(alpha‖z)`` with completions y_k drawn from P. The mean is unbiased; the
    binary KL of estimated rates is biased upwards, so with few samples the estimate is biased downwards, and it may be
    negative.

    Args:
        logprobs: log P of whole completions, [P, K].
        base_logprobs: log P_0 of the same completions, [P, K].
        success_rate: alpha of each prompt, [P].
        base_success_rate: z of each prompt, [P]; 0 or 1 makes the result -inf unless alpha is the same.

    Returns:
        [P], in nats.
    """
    ratio = at_least_float32(logprobs) - at_least_float32(base_logprobs)
    return ratio.mean(-1) - binary_kl(success_rate, base_success_rate)
