"""What a stream of tasks does to each of them: metrics of the retention matrix.

``R[i][j]`` is the score on task j after stage i. Row 0 is the base model, rows and columns 1..N are the stages and
their tasks (a task trained twice has two columns): R is [N + 1, N], and column j - 1 holds task j. A nan cell was not
measured; a metric that needs it is nan. So is a metric that one task alone cannot have.

Where less is better (losses, perplexities), ``mode="min"`` gives a metric of changes of ``-R``: forgetting is positive
where the score rose, transfer where it fell. Averages keep their own sign.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32

Mode = Literal["max", "min"]
"""Whether more of a score is better or less."""


def signed(scores: Tensor, mode: Mode) -> Tensor:
    """Scores of which more is better, in float32 or better: those of ``min`` with the other sign.

    Raises:
        ValueError: Unknown mode.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"unknown mode {mode!r}: max or min")
    scores = at_least_float32(scores)
    return scores if mode == "max" else -scores


def _checked(R: Tensor, mode: Mode = "max") -> tuple[Tensor, int]:
    if R.dim() != 2 or R.shape[0] != R.shape[1] + 1:
        raise ValueError(f"R must be [N + 1, N] with the base model in row 0, got {list(R.shape)}")
    return signed(R, mode), R.shape[1]


def average_accuracy(R: Tensor) -> Tensor:
    """Mean score after the last stage: ``mean_j R[N][j]`` (arXiv 1706.08840)."""
    return _checked(R)[0][-1].mean()


def learning_accuracy(R: Tensor) -> Tensor:
    """Mean score on each task right after its own stage: ``mean_j R[j][j]`` (arXiv 1810.11910)."""
    return _checked(R)[0][1:].diagonal().mean()


def base_average(R: Tensor) -> Tensor:
    """Mean score before training: ``mean_j R[0][j]``."""
    return _checked(R)[0][0].mean()


def seen_average_by_stage(R: Tensor) -> Tensor:
    """Mean over the tasks seen so far: ``mean_{j<=i} R[i][j]`` for i = 1..N, [N]."""
    R, n = _checked(R)
    return torch.stack([R[i, :i].mean() for i in range(1, n + 1)])


def anytime_accuracy(R: Tensor) -> Tensor:
    """Mean over the stages of the mean over the tasks seen so far: ``mean_i mean_{j<=i} R[i][j]``.

    Also called average incremental accuracy; the base model's row is not in it.
    """
    return seen_average_by_stage(R).mean()


def all_average_by_stage(R: Tensor) -> Tensor:
    """Mean over all tasks, seen or not: ``mean_j R[i][j]`` for i = 0..N, [N + 1]."""
    return _checked(R)[0].mean(1)


def backward_transfer(R: Tensor, mode: Mode = "max") -> Tensor:
    """What later stages did to earlier tasks: ``mean_{j<N} (R[N][j] - R[j][j])`` (arXiv 1706.08840).

    Example:
        >>> backward_transfer(torch.tensor([[0.0, 0.0], [0.5, 0.1], [0.6, 0.7]]))
        tensor(0.1000)
    """
    R, n = _checked(R, mode)
    return (R[-1] - R[1:].diagonal())[: n - 1].mean()


def forward_transfer(R: Tensor, mode: Mode = "max") -> Tensor:
    """What earlier stages did to a task before its own: ``mean_{j>1} (R[j-1][j] - R[0][j])`` (arXiv 1706.08840)."""
    R, _ = _checked(R, mode)
    return (R[:-1].diagonal() - R[0])[1:].mean()


def forgetting(R: Tensor, *, with_base: bool = False, from_own_stage: bool = False, mode: Mode = "max") -> Tensor:
    """Best score once had minus the last: ``mean_{j<N} (max_{1<=i<N} R[i][j] - R[N][j])`` (arXiv 1801.10112).

    Negative where every earlier task ends above its earlier best.

    Args:
        R: [N + 1, N].
        with_base: The maximum may also be the base model's score (i from 0).
        from_own_stage: The maximum starts at the task's own stage (i from j).
        mode: Whether more is better or less; then ``mean_{j<N} (R[N][j] - min_{1<=i<N} R[i][j])``.

    Raises:
        ValueError: Both options are set.

    Example:
        >>> forgetting(torch.tensor([[3.0, 2.5], [1.0, 2.4], [1.6, 0.9]]), mode="min")
        tensor(0.6000)
    """
    if with_base and from_own_stage:
        raise ValueError("with_base and from_own_stage exclude each other")
    R, n = _checked(R, mode)
    if n == 1:
        return R.new_tensor(torch.nan)
    best = [R[j if from_own_stage else 1 - with_base : n, j - 1].max() for j in range(1, n)]
    return (torch.stack(best) - R[-1, : n - 1]).mean()


def forgetting_by_stage(R: Tensor, mode: Mode = "max") -> Tensor:
    """:func:`forgetting` of the first k stages and tasks, for k = 2..N, [N - 1]."""
    R, n = _checked(R, mode)
    return torch.stack([forgetting(R[: k + 1, :k]) for k in range(2, n + 1)]) if n > 1 else R.new_zeros(0)


def intransigence(R: Tensor, joint: Tensor, mode: Mode = "max") -> Tensor:
    """What learning in a stream costs against learning together: ``mean_j (joint_j - R[j][j])`` (arXiv 1801.10112).

    Args:
        R: [N + 1, N].
        joint: Scores of a reference trained on all tasks together, [N].
        mode: Whether more is better or less.
    """
    R, _ = _checked(R, mode)
    return (signed(joint, mode).to(R) - R[1:].diagonal()).mean()


def transitions(before: Tensor, after: Tensor, choices: int | None = None) -> dict[str, Tensor]:
    """Which items were lost and which were won between two evaluations (arXiv 2510.17776).

    ``forgetting = mean(before * (1 - after))`` (1→0), ``backward_transfer = mean((1 - before) * after)`` (0→1). With
    several answers per item, before and after are the item's shares of correct answers.

    Of k choices, an item that is not known is guessed right once in k. If the guesses before and after are independent,
    chance alone moves ``(1 - accuracy before) (1 - accuracy after) / (k - 1)`` of the items in each direction;
    ``*_true`` are what is left of the shares above that, never negative, and ``forgetting_max`` is the share that was
    known and could be lost, ``max((k accuracy_before - 1) / (k - 1), 0)``. They do not exist for open answers.

    Args:
        before: Correct or not, or share of correct answers, for each item, [n].
        after: The same items in the same order, [n].
        choices: k, at least 2; ``None`` for open answers.

    Returns:
        Scalars: ``accuracy_before``, ``accuracy_after``, ``forgetting``, ``backward_transfer``, ``forgotten_share``
        (of what was correct before; nan if nothing was), ``kept`` (1→1), ``never`` (0→0), and with ``choices`` also
        ``chance``, ``forgetting_true``, ``backward_transfer_true``, ``forgetting_max``.

    Raises:
        ValueError: The shapes differ, or ``choices`` is below 2.

    Example:
        >>> result = transitions(torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 1, 0]), choices=2)
        >>> result["forgetting"].item(), result["forgetting_true"].item()
        (0.25, 0.0)
    """
    if before.shape != after.shape:
        raise ValueError(f"before and after must be the same items, got {list(before.shape)} and {list(after.shape)}")
    before, after = at_least_float32(before), at_least_float32(after)
    lost, won = (before * (1 - after)).mean(), ((1 - before) * after).mean()
    return transition_shares(before.mean(), after.mean(), lost, won, choices)


def transition_shares(
    accuracy_before: Tensor, accuracy_after: Tensor, lost: Tensor, won: Tensor, choices: int | None = None
) -> dict[str, Tensor]:
    """:func:`transitions` where the means over the items are known already.

    Args:
        accuracy_before: ``mean before``.
        accuracy_after: ``mean after``.
        lost: ``mean(before * (1 - after))``.
        won: ``mean((1 - before) * after)``.
        choices: k, at least 2; ``None`` for open answers.

    Raises:
        ValueError: ``choices`` is below 2.
    """
    if choices is not None and choices < 2:
        raise ValueError(f"choices must be at least 2, got {choices}")
    result = {
        "accuracy_before": accuracy_before,
        "accuracy_after": accuracy_after,
        "forgetting": lost,
        "backward_transfer": won,
        "forgotten_share": lost / accuracy_before,
        "kept": accuracy_before - lost,
        "never": 1 - accuracy_before - won,
    }
    if choices is not None:
        chance = (1 - accuracy_before) * (1 - accuracy_after) / (choices - 1)
        result |= {
            "chance": chance,
            "forgetting_true": (lost - chance).clamp(min=0),
            "backward_transfer_true": (won - chance).clamp(min=0),
            "forgetting_max": ((choices * accuracy_before - 1) / (choices - 1)).clamp(min=0),
        }
    return result


def unchanged_transitions(share: Tensor, samples: Tensor) -> Tensor:
    """What sampling alone moves in each direction when the model is the same: ``mean_i p_i (1 - p_i)``.

    With ``share_i`` of ``m_i`` samples correct, ``m / (m - 1) share (1 - share)`` is unbiased for ``p (1 - p)``. One
    sample says nothing about it; such items are left out. Where both evaluations draw with the same random numbers,
    less moves than this.

    Args:
        share: Share of correct samples of each item, [n].
        samples: Number of samples of each item, [n].

    Returns:
        A scalar; nan where no item has two samples.

    Example:
        >>> unchanged_transitions(torch.tensor([0.5, 1.0]), torch.tensor([2, 2]))
        tensor(0.2500)
    """
    share, samples = at_least_float32(share), samples.to(share.device)
    several = samples > 1
    variance = share * (1 - share) * samples / (samples - 1).clamp(min=1)
    return variance[several].mean()


def relative_change(base: Tensor, score: Tensor) -> Tensor:
    """Change in percent of the base model's score: ``100 (score - base) / base``; nan where the base scores 0.

    The paper's gain is ``max(0, change)``, its forgetting ``max(0, -change)`` (arXiv 2607.01763, eqs. A.3-A.6).

    Args:
        base: [...].
        score: [...].

    Example:
        >>> relative_change(torch.tensor([50.0, 40.0]), torch.tensor([60.0, 30.0]))
        tensor([ 20., -25.])
    """
    base, score = at_least_float32(base), at_least_float32(score)
    return torch.where(base == 0, torch.nan, 100 * (score - base) / base)


def gain_and_loss(base: Tensor, score: Tensor, *, mode: Mode = "max") -> tuple[Tensor, Tensor]:
    """The paper's gain ``max(0, change)`` and forgetting ``max(0, -change)``, in percent of the base score.

    Args:
        base: [...].
        score: [...].
        mode: ``"min"`` for losses, whose rise is forgetting.
    """
    change = signed(relative_change(base, score), mode)
    return change.clamp(min=0), (-change).clamp(min=0)


def ood_change(base: Tensor, score: Tensor, *, of_means: bool = False) -> Tensor:
    """Change on tasks never trained on, in percent: the mean of :func:`relative_change`, or that of the mean scores.

    Args:
        base: Scores of the base model, [J].
        score: Scores now, [J].
        of_means: Compare the mean scores instead of averaging the changes.
    """
    base, score = at_least_float32(base), at_least_float32(score)
    return relative_change(base.mean(), score.mean()) if of_means else relative_change(base, score).mean()
