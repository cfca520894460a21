"""What the figures show of several seeds: mean, interval, range, smoothed curve, and a quadratic fit with its band."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_sdpo.functional.intervals import student_t_quantile

Array = NDArray[np.float64]
#: Least and largest value that a number can have.
Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)


def over_seeds(values: ArrayLike, possible: Range = ANY) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Mean of the seeds that have a value, its 95 % t-interval, and how many they are.

    Args:
        values: One row per seed, nan where a seed has none, [seeds, n].
        possible: Where the interval is cut; not at values outside of which a seed lies.

    Returns:
        Mean, low, high and number, [n] each; no interval (nan) of fewer than three seeds, no mean of none.

    Example:
        >>> mean, low, high, count = over_seeds([[1.0], [2.0], [3.0]])
        >>> [round(float(x[0]), 3) for x in (mean, low, high)]
        [2.0, -0.484, 4.484]
        >>> round(float(over_seeds([[0.7], [0.8], [0.99]], (0, 1))[2][0]), 3)
        1.0
    """
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    known = np.isfinite(rows)
    count = known.sum(0)
    total = np.where(known, rows, 0.0).sum(0)
    mean = np.divide(total, count, out=np.full(rows.shape[1], math.nan), where=count > 0)
    squares = (np.where(known, rows - mean, 0.0) ** 2).sum(0)
    half = np.full(rows.shape[1], math.nan)
    for n in {int(n) for n in count if n >= 3}:
        at = count == n
        half[at] = student_t_quantile(0.975, n - 1) * np.sqrt(squares[at] / (n - 1) / n)
    least, most = (
        possible if not known.any() else (min(possible[0], rows[known].min()), max(possible[1], rows[known].max()))
    )
    return mean, np.maximum(mean - half, least), np.minimum(mean + half, most), count


def shades(scores: Array, losses: Sequence[bool], limits: tuple[float, float]) -> Array:
    """Numbers to colour scores by, from bad to good: scores as they are, losses from the worst of a column to the best.

    Args:
        scores: [..., rows, columns], nan where there is none.
        losses: Whether a column is a loss, of which less is better, [columns].
        limits: Ends of the scale.

    Example:
        >>> shades(np.array([[0.5, 2.0], [0.7, 4.0]]), [False, True], (0.0, 1.0)).tolist()
        [[0.5, 1.0], [0.7, 0.0]]
    """
    low, high = limits
    shaded = np.array(scores, dtype=float)
    for k in np.flatnonzero(losses):
        column = shaded[..., k]
        known = column[np.isfinite(column)]
        width = known.max() - known.min() if known.size else 0.0
        share = (known.max() - column) / width if width else np.where(np.isfinite(column), 0.5, math.nan)
        shaded[..., k] = low + (high - low) * share
    return shaded


def score_limits(scores: Array) -> tuple[float, float]:
    """0 and 1 where all scores lie between them, else their range."""
    known = scores[np.isfinite(scores)]
    if not known.size or (known.min() >= 0 and known.max() <= 1):
        return 0.0, 1.0
    return float(known.min()), float(max(known.max(), known.min() + 1e-12))


def seed_range(values: ArrayLike) -> tuple[Array, Array]:
    """Lowest and highest seed, [n] each; nan where no seed has a value.

    Example:
        >>> seed_range([[1.0, np.nan], [2.0, np.nan]])
        (array([ 1., nan]), array([ 2., nan]))
    """
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    known = np.isfinite(rows)
    low = np.where(known, rows, np.inf).min(0)
    high = np.where(known, rows, -np.inf).max(0)
    return np.where(known.any(0), low, math.nan), np.where(known.any(0), high, math.nan)


def smooth(values: ArrayLike, starts: Sequence[int] = (), weight: float = 0.8) -> Array:
    """An exponential mean without the bias of its beginning, which forgets everything where a stage starts.

    Args:
        values: In the order of steps, nan where there is none, [n].
        starts: Places at which a stage begins.
        weight: Of the past.

    Example:
        >>> smooth([1.0, 1.0, 0.0], starts=[2])
        array([1., 1., 0.])
    """
    smoothed = np.full(len(np.asarray(values)), math.nan)
    total = mass = 0.0
    for i, value in enumerate(np.asarray(values, dtype=float)):
        if i in starts:
            total = mass = 0.0
        if math.isfinite(value):
            total, mass = weight * total + (1 - weight) * value, weight * mass + (1 - weight)
            smoothed[i] = total / mass
    return smoothed


def quadratic_fit(x: ArrayLike, y: ArrayLike, at: ArrayLike) -> tuple[Array, Array, Array] | None:
    """Least squares of order 2 with the 95 % band of its mean; ``None`` for fewer than five points or three places.

    Example:
        >>> line, low, high = quadratic_fit([0, 1, 2, 3, 4], [0, 1, 4, 9, 16], [5.0])
        >>> round(float(line[0]), 6)
        25.0
    """
    x, y, at = (np.asarray(v, dtype=float) for v in (x, y, at))
    if len(x) < 5 or len(np.unique(x)) < 3:
        return None
    design, wanted = np.vander(x, 3), np.vander(at, 3)
    inverse = np.linalg.pinv(design.T @ design)
    weights = inverse @ design.T @ y
    variance = float(((y - design @ weights) ** 2).sum()) / (len(x) - 3)
    half = student_t_quantile(0.975, len(x) - 3) * np.sqrt(variance * np.einsum("ij,jk,ik->i", wanted, inverse, wanted))
    return wanted @ weights, wanted @ weights - half, wanted @ weights + half
