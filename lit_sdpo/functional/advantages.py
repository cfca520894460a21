"""What a policy gradient reinforces: a completion against its group, or a token by a teacher's opinion of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32, fill_masked

Normalisation = Literal["std", "none", "loo", "batch_std"]


def group_advantages(
    rewards: Tensor,
    groups: Tensor,
    normalisation: Normalisation = "std",
    *,
    eps: float = 1e-6,
    batch_std: Tensor | None = None,
) -> Tensor:
    """Group-relative advantages.

    With mean, std (n - 1) and size n of the row's group::

        std        (r - mean) / (std + eps)                    GRPO, arXiv 2402.03300
        none        r - mean                                   Dr. GRPO, arXiv 2503.20783
        loo         r - mean of the others                     RLOO, arXiv 2402.14740
        batch_std  (r - mean) / (std of all rewards + eps)     REINFORCE++ with group baseline, arXiv 2501.03262

    A group of one and a group whose rewards are all equal give 0. Rows whose reward is nan abstained: they count in no
    mean and no std, and their advantage is 0.

    Args:
        rewards: [N]; nan abstains.
        groups: Group of each row, integer [N]; groups need be neither contiguous nor equal in size.
        normalisation: See above.
        eps: Added to the standard deviation.
        batch_std: What ``batch_std`` divides by, where these rewards are a part of the batch only; see
            :func:`std_of_sums`.

    Returns:
        [N], in float32 or better, without gradient.

    Raises:
        ValueError: Unknown normalisation.

    Example:
        >>> group_advantages(torch.tensor([1.0, 0.0, 0.5, torch.nan]), torch.tensor([0, 0, 1, 1]), "none")
        tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    rewards = at_least_float32(rewards.detach())
    known = ~rewards.isnan()
    _, index = groups.unique(return_inverse=True)
    size = int(index.max()) + 1 if len(index) else 0

    def group_sum(x: Tensor) -> Tensor:
        return x.new_zeros(size).index_add(0, index, x)[index]

    # Measured from the group's smallest reward, equal rewards are exactly 0 and so are their deviations.
    values = torch.where(known, rewards, torch.inf)
    smallest = values.new_full((size,), torch.inf).scatter_reduce(0, index, values, "amin")[index]
    offset = torch.where(known, rewards - smallest, 0.0)
    n = group_sum(known.to(rewards.dtype))
    deviation = torch.where(known, offset - group_sum(offset) / n.clamp(min=1), 0.0)

    if normalisation == "none":
        return deviation
    if normalisation == "loo":
        return deviation * n / (n - 1).clamp(min=1)
    if normalisation == "std":
        return deviation / ((group_sum(deviation.square()) / (n - 1).clamp(min=1)).sqrt() + eps)
    if normalisation == "batch_std":
        spread = std_of_sums(sums_of(rewards)) if batch_std is None else batch_std
        return deviation / (spread.to(rewards.dtype) + eps)
    raise ValueError(f"unknown normalisation {normalisation!r}")


def sums_of(rewards: Tensor) -> Tensor:
    """Number, sum and sum of squares of the rewards that are known, float64 [3]; those of parts of a batch add up."""
    known = rewards[~rewards.isnan()].double()
    return torch.stack([known.new_tensor(len(known)), known.sum(), known.square().sum()])


def std_of_sums(sums: Tensor) -> Tensor:
    """The standard deviation (n - 1) behind :func:`sums_of`, float64; 0 for fewer than two rewards.

    Example:
        >>> std_of_sums(sums_of(torch.tensor([1.0, 2.0])) + sums_of(torch.tensor([3.0, torch.nan])))
        tensor(1., dtype=torch.float64)
    """
    count, total, squares = sums.unbind()
    centred = (squares - total.square() / count.clamp(min=1)).clamp(min=0)
    return (centred / (count - 1).clamp(min=1)).sqrt()


def distillation_advantages(
    logprobs: Tensor,
    teacher_logprobs: Tensor,
    mask: Tensor | None = None,
    coefficient: float = 1.0,
    clip: float | None = None,
) -> Tensor:
    """On-policy distillation as advantages: ``coefficient * clamp(log pi_T(y) - log pi(y), -clip, clip)``.

    In expectation over tokens drawn from the policy, the policy gradient with these is that of ``-coefficient
    KL(pi‖pi_T)`` per token (K. Lu, "On-Policy Distillation", Thinking Machines, 2025).

    Args:
        logprobs: Of the sampled tokens under the policy that drew them, [...].
        teacher_logprobs: Of the same tokens under the teacher, [...].
        mask: True at active tokens, [...]; elsewhere the result is 0.
        coefficient: Factor of the result.
        clip: Largest absolute log-ratio; ``None`` leaves it unbounded.

    Returns:
        [...], in float32 or better, without gradient.

    Raises:
        ValueError: ``clip`` is not above 0.

    Example:
        >>> distillation_advantages(torch.tensor([-1.0, -2.0]), torch.tensor([-4.0, -1.5]), clip=1.0)
        tensor([-1.0000,  0.5000])
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    log_ratio = fill_masked(at_least_float32(teacher_logprobs.detach()), mask)
    log_ratio = log_ratio - fill_masked(at_least_float32(logprobs.detach()), mask)
    return coefficient * (log_ratio if clip is None else log_ratio.clamp(-clip, clip))
