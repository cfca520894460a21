"""The theory of arXiv 2607.01763 (section 5.3, appendix B), exact on finite spaces.

A base policy P_0 with full support answers a prompt. S is the set of successes and z = P_0(S). Among all policies
with success alpha, one stays nearest to P_0: the razor policy Q. What any other policy with the same success has on top
is its excess KL. Logarithms are natural.

Responses are either listed flat, [Y], or as sequences over a tree of tokens: [V, V, ..., V], one dimension per token.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

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
    """Excess reverse KL of each prompt whose success rates are known: mean log-ratio less their binary KL.

    ``mean_k [log P(y_k) - log P_0(y_k)] - kl(alpha‖z)`` with completions y_k drawn from P: unbiased where the rates
    are known, as on an enumerated space. Rates from the completions themselves bias it, in either direction:
    :func:`excess_kl_bounds` needs none.

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


class ExcessBounds(NamedTuple):
    """Two estimates between whose means the excess reverse KL lies, in nats, [P] each; nan where nothing is judged.

    Attributes:
        at_least: On average at most the excess; never negative, and 0 where there is none.
        at_most: On average at least the excess.
    """

    at_least: Tensor
    at_most: Tensor


def excess_kl_bounds(
    log_ratios: Tensor, successes: Tensor, base_log_ratios: Tensor, base_successes: Tensor
) -> ExcessBounds:
    """Bounds of the excess reverse KL of each prompt, from completions of the policy and of its base.

    The excess is what the policy moved *among* successes and *among* failures,
    ``alpha KL(P(.|S)‖P_0(.|S)) + (1 - alpha) KL(P(.|not S)‖P_0(.|not S))``, and with ``r = P / P_0``

        KL(P(.|S)‖P_0(.|S)) = E[log r | P, S] + log E[1 / r | P, S] = E[log r | P, S] - log E[r | P_0, S].

    ``at_least`` puts means over the policy's completions into the first form, ``at_most`` those over the base's into
    the second; the logarithm of a mean is too small on average, which makes the one too small and the other too large.
    Neither needs the success rates themselves: of a rate that a handful of completions shows as 0 the cost of success
    cannot be told, and smoothing it leaves .3 to 3 nats that the policy has not moved.

    Both are exactly 0 for a razor policy, whose ratio is one number among successes and one among failures. The gap is
    the price of few completions: ``at_least`` sees 0 in a group of one, and at most the spread of the log-ratios
    within a group; where no completion of the base succeeds, or none fails, ``at_most`` is the whole KL.

    Args:
        log_ratios: ``log P - log P_0`` of whole completions drawn from P, [P, K].
        successes: 1 for a success, 0 for a failure, nan where nobody knows, [P, K].
        base_log_ratios: The same difference of completions drawn from P_0, [P, K0].
        base_successes: Of those, [P, K0].

    Example:
        >>> ratios, right = torch.tensor([[1.0, 1.0, -1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
        >>> excess_kl_bounds(ratios, right, ratios, right).at_most
        tensor([0.], dtype=torch.float64)
    """
    ratios, base_ratios = log_ratios.double(), base_log_ratios.double()
    count = (~successes.isnan()).sum(-1)
    kl = torch.where(successes.isnan(), 0.0, ratios).sum(-1)
    at_least, needed, bounded = kl, torch.zeros_like(kl), torch.ones_like(kl, dtype=torch.bool)
    for among in (lambda x: x >= 1, lambda x: x < 1):  # nan is neither
        here, base_here = among(successes), among(base_successes)
        size = here.sum(-1)
        at_least = at_least + torch.where(size > 0, size * _log_mean(-ratios, here), 0.0)
        needed = needed + torch.where(size > 0, size * _log_mean(base_ratios, base_here), 0.0)
        bounded &= base_here.any(-1)
    at_least = (at_least / count).clamp(min=0)  # rounding
    at_most = torch.where(bounded, kl - needed, kl) / count
    return ExcessBounds(at_least, torch.maximum(at_least, at_most))


def _log_mean(logs: Tensor, mask: Tensor) -> Tensor:
    """``log mean exp`` of the masked entries of each row; meaningless where there are none."""
    return logs.masked_fill(~mask, -torch.inf).logsumexp(-1) - mask.sum(-1).clamp(min=1).double().log()
