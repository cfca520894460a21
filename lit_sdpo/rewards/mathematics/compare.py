r"""Whether two formulas are equal.

Numbers are compared exactly where they are rational, else with more than a hundred digits, relative to the largest and
the smallest number on the way. Formulas with variables are compared at points of many kinds: equal where both have a
value, and with values at the same places.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lit_sdpo.rewards.mathematics.formula import Node
from lit_sdpo.rewards.mathematics.value import BITS, NoValueError, context, exact, value_at, values


def _close(left: tuple[Any, int, int], right: tuple[Any, int, int]) -> bool:
    """Equal up to what rounding may do; both values have to have been computed with the same number of bits."""
    mp = context()
    mp.prec = left[2]
    return bool(abs(left[0] - right[0]) <= mp.mpf(2) ** (max(left[1], right[1]) - left[2] + 60))


#: Points by kind: positive, of both signs, large, whole. The last may be outside of what the others allow.
_RANGES = (
    *(((Fraction(1, 5), Fraction(19, 20)),) * 2), *(((Fraction(11, 10), Fraction(3)),) * 2),
    *(((Fraction(-3), Fraction(3)),) * 5), *(((Fraction(4), Fraction(60)),) * 3),
)  # fmt: skip
_WHOLE_POINTS = 4


@lru_cache(maxsize=4096)
def _points(names: frozenset[str]) -> tuple[tuple[tuple[str, Fraction], ...], ...]:
    def at(name: str, index: int) -> Fraction:
        share = zlib.crc32(f"{name}/{index}".encode()) / 2**32
        if index >= len(_RANGES):
            return Fraction(2 + int(share * 25))
        low, high = _RANGES[index]
        return (low + (high - low) * Fraction(int(share * 10**6), 10**6)).limit_denominator(10**6)

    if not names:
        return ((),)
    indices = range(len(_RANGES) + _WHOLE_POINTS)
    return tuple(tuple((name, at(name, index)) for name in sorted(names)) for index in indices)


def equal(left: Node, right: Node) -> bool:
    r"""Whether two formulas are equal wherever both have a value.

    Example:
        >>> from lit_sdpo.rewards.mathematics.expression import read_formula as read
        >>> equal(read(r"3\sqrt{13}"), read(r"\sqrt{117}")), equal(read("x+1"), read("x-1"))
        (True, False)
    """
    if left == right:
        return True
    if left.has("infty") or right.has("infty"):
        return False
    try:
        if not (names := left.names() | right.names()):
            mine, other = exact(left), exact(right)
            if mine is not None and other is not None:
                return mine == other
        real = bool(names) and not (left.has("i") or right.has("i"))
        pairs = list(zip(values(left, _points(names), real), values(right, _points(names), real), strict=True))
    except (NoValueError, OverflowError):
        return False
    if any((mine is None) != (other is None) for mine, other in pairs):
        return False
    places = [index for index, (mine, _) in enumerate(pairs) if mine is not None]
    return len(places) >= min(3, len(pairs)) and all(
        _same_at(left, right, pairs[index], dict(_points(names)[index]), real) for index in places
    )


def _same_at(
    left: Node,
    right: Node,
    values: tuple[tuple[Any, int, int], tuple[Any, int, int]],
    point: Mapping[str, Fraction],
    real: bool,
) -> bool:
    """Whether two formulas are equal at a point; the value of fewer bits is computed again with those of the other."""
    mine, other = values
    if mine[2] < other[2]:
        mine = value_at(left, point, real, other[2])
    if other[2] < mine[2]:
        other = value_at(right, point, real, mine[2])
    return mine[2] == other[2] and _close(mine, other)


def proportional(left: Node, right: Node, positive: bool = False) -> bool:
    """Whether one formula is a constant other than 0 times the other, a positive one if so asked."""
    names = left.names() | right.names()
    if not names or left.has("infty", "i") or right.has("infty", "i"):
        return False
    try:
        pairs = list(zip(values(left, _points(names), True), values(right, _points(names), True), strict=True))
    except (NoValueError, OverflowError):
        return False
    if any((mine is None) != (other is None) for mine, other in pairs):
        return False
    both = [(mine, other) for mine, other in pairs if mine is not None and mine[0] and other[0]]
    if len(both) < 3:
        return False
    mp = context()
    mp.prec = 2 * BITS
    ratios = [mine[0] / other[0] for mine, other in both]
    tolerance = mp.mpf(2) ** (-BITS // 2) * abs(ratios[0])
    return all(abs(ratio - ratios[0]) <= tolerance for ratio in ratios) and (ratios[0] > 0 or not positive)
