"""Whole numbers of prompts for shares of several parts: window by window, or for a stage as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def interleaved(shares: Sequence[Fraction], prompts: int, windows: int) -> list[int]:
    """The part of each prompt where every window holds the parts at their shares.

    Of a window's quota ``prompts * share`` each part gets the whole prompts. The prompts that are left go, one each, to
    the parts whose next one is due first, counted over the stage: the n-th of a part that is owed a fraction f of a
    prompt per window is due by window n / f. So every window's count is its quota rounded down or up, and from the
    beginning to any window the counts differ from the shares by less than one prompt. Within a window the parts
    alternate, so that processes, which share a window's prompts in order, get some of each.

    Args:
        shares: Of each part; they sum to 1.
        prompts: Prompts of a window.
        windows: Windows of the stage.

    Returns:
        Index of the part of each prompt, windows times prompts.

    Example:
        >>> interleaved([Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], 4, 1)
        [0, 1, 2, 0]
        >>> interleaved([Fraction(2, 3), Fraction(1, 3)], 2, 3)
        [0, 1, 0, 1, 0, 0]
    """
    whole = [math.floor(prompts * share) for share in shares]
    owed = [prompts * share - count for share, count in zip(shares, whole, strict=True)]
    given = [0] * len(shares)
    order: list[int] = []
    for window in range(windows):
        counts = list(whole)
        # None before its time: it would be ahead of its share by a prompt or more.
        due = [k for k, fraction in enumerate(owed) if fraction and math.floor(given[k] / fraction) <= window]
        due.sort(key=lambda k: (math.ceil((given[k] + 1) / owed[k]), -owed[k], k))
        for k in due[: prompts - sum(whole)]:
            counts[k] += 1
            given[k] += 1
        places = [(Fraction(2 * n + 1, 2 * count), k) for k, count in enumerate(counts) for n in range(count)]
        order += [k for _, k in sorted(places)]
    return order


def blocked(shares: Sequence[Fraction], total: int) -> list[int]:
    """The part of each prompt where one part follows the other, at counts by largest remainder.

    Args:
        shares: Of each part; they sum to 1.
        total: Prompts of the stage.

    Returns:
        Index of the part of each prompt, ``total`` of them.

    Example:
        >>> blocked([Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)], 7)
        [0, 0, 0, 0, 1, 1, 2]
    """
    counts = [math.floor(total * share) for share in shares]
    rest = sorted(range(len(shares)), key=lambda k: (counts[k] - total * shares[k], k))
    for k in rest[: total - sum(counts)]:
        counts[k] += 1
    return [k for k, count in enumerate(counts) for _ in range(count)]
