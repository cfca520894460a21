"""Compares what a script printed with what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

_TOLERANCE = Decimal("1e-6")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\Z")


def same_lines(printed: str, expected: str) -> bool:
    r"""Equal lines; blank lines at both ends and blanks at the end of a line do not count.

    A line of numbers may also hold the same numbers in another spelling (``2.50`` for ``2.5``), and where the expected
    one has a decimal point or exponent, one that is within 1e-6 of it.

    Example:
        >>> same_lines("\n0.3333333333\n", "0.33333333"), same_lines("3.0000001", "3"), same_lines("  x", "x")
        (True, False, False)
    """
    return _same(_lines(printed, str.rstrip), _lines(expected, str.rstrip), _near)


def same_as_livecodebench(printed: str, expected: str) -> bool:
    """The rule of LiveCodeBench: equal lines without the blanks around them, or lines of equal decimals.

    Example:
        >>> same_as_livecodebench(" 2.50", "2.5"), same_as_livecodebench("0.3333333", "0.33333333")
        (True, False)
    """
    return _same(_lines(printed, str.strip), _lines(expected, str.strip), lambda one, other: one == other)


#: How a script's output is compared, by the row's ``checker``.
CHECKERS: Mapping[str, Callable[[str, str], bool]] = {"lines": same_lines, "livecodebench": same_as_livecodebench}


def _lines(text: str, strip: Callable[[str], str]) -> list[str]:
    lines = [strip(line) for line in text.rstrip().split("\n")]
    while len(lines) > 1 and not lines[0]:
        lines.pop(0)
    return lines


def _same(printed: list[str], expected: list[str], near: Callable[[Decimal, Decimal], bool]) -> bool:
    return len(printed) == len(expected) and all(
        one == other or _same_numbers(one.split(), other.split(), near)
        for one, other in zip(printed, expected, strict=True)
    )


def _same_numbers(printed: list[str], expected: list[str], near: Callable[[Decimal, Decimal], bool]) -> bool:
    return (
        len(printed) == len(expected) > 0
        and all(map(_NUMBER.match, printed + expected))
        and all(near(Decimal(one), Decimal(other)) for one, other in zip(printed, expected, strict=True))
    )


def _near(printed: Decimal, expected: Decimal) -> bool:
    exponent = expected.as_tuple().exponent
    exact = isinstance(exponent, int) and exponent == 0  # Written as a whole number.
    return printed == expected or (not exact and abs(printed - expected) <= _TOLERANCE)
