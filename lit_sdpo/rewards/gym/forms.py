"""Forms in which answers to puzzles of reasoning_gym are read; two answers are the same where they read the same.

Every reader raises a ValueError on what is not in its form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from lit_sdpo.rewards.strict_json import loads

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d{1,3})?")
_FRACTION = re.compile(
    r"(?P<dollar>\$?)\s*(?:\\d?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}|(-?\d+)\s*/\s*(-?\d+))\s*(?P=dollar)"
)
_REAL = r"\d+(?:\.\d+)?"
_COMPLEX = re.compile(rf"(?:([+-]?{_REAL})(?=[+-]|\Z))?(?:([+-]?(?:{_REAL})?)[ij])?")


def text(answer: str) -> str:
    r"""The lines of a text, whatever white space is between their words.

    Example:
        >>> text("1  2 \n\n3 4") == text("1 2\n3 4\n"), text("1 2 3 4") == text("1 2\n3 4")
        (True, False)
    """
    return "\n".join(" ".join(line.split()) for line in answer.splitlines() if line.strip())


def folded(answer: str) -> str:
    """The text without case."""
    return text(answer).casefold()


def compact(answer: str) -> str:
    """The text without case and white space."""
    return "".join(answer.split()).casefold()


def number(answer: str) -> Decimal:
    """A number in digits, perhaps with commas between thousands or an exponent.

    Example:
        >>> number("+1,560.0") == number("1560"), number("nan")
        Traceback (most recent call last):
            ...
        ValueError: 'nan' is no number
    """
    answer = answer.strip()
    if not _NUMBER.fullmatch(answer) or not re.match(r"[+-]?\.?\d", answer):
        raise ValueError(f"{answer[:40]!r} is no number")
    return Decimal(answer.replace(",", ""))


def matrix(answer: str) -> list[list[Decimal]]:
    """Rows of numbers between white space."""
    return [[number(cell) for cell in row.split()] for row in answer.strip().splitlines()]


def roots(answer: str) -> list[Decimal]:
    """Numbers between commas, in any order."""
    return sorted(number(part) for part in answer.split(","))


def listed_numbers(answer: str) -> list[Decimal]:
    """A JSON list of numbers, each perhaps as a text, in order."""
    return [number(str(item)) for item in of_kind(list, loads(answer.replace("'", '"')))]


def fraction(answer: str) -> tuple[int, int]:
    """Numerator and denominator as written."""
    found = _FRACTION.fullmatch(answer.strip())
    if found is None:
        raise ValueError("it is no fraction")
    above, below = (int(part) for part in found.groups()[1:] if part is not None)
    return above, below


def complex_number(answer: str) -> tuple[Decimal, Decimal]:
    """Real and imaginary part.

    Example:
        >>> complex_number("3.0 - 2i") == complex_number("3 - 2.0i")
        True
    """
    packed = "".join(answer.split())
    if packed.startswith("(") and packed.endswith(")"):
        packed = packed[1:-1]
    found = _COMPLEX.fullmatch(packed)
    if found is None or not packed:
        raise ValueError("it is no complex number")
    real, imaginary = found.groups()
    part = {"": "1", "+": "1", "-": "-1"}.get(imaginary, imaginary) if imaginary is not None else "0"
    return Decimal(real or 0), Decimal(part)


def primes(answer: str) -> list[int]:
    """Factors between signs of multiplication, in any order."""
    return sorted(int(part) for part in re.split(r"\s*[\u00d7x*\u00b7]\s*", answer.strip()) if _digits(part))


def words(answer: str) -> list[str]:
    """Texts between commas, in order."""
    return [part.strip() for part in answer.split(",")]


def value(answer: str) -> str:
    """A JSON value, whatever its spaces and the order of its keys."""
    return json.dumps(loads(answer), sort_keys=True)


def groups(answer: str) -> list[list[str]]:
    """Lists of texts, in any order within and between them."""
    return sorted(sorted(part) for part in partitions(answer))


def partitions(answer: str) -> list[list[str]]:
    """Lists of texts, in any order between them."""
    return sorted([str(item) for item in of_kind(list, part)] for part in of_kind(list, loads(answer)))


def roles(answer: str) -> list[str]:
    """Sentences that say who is what, in any order.

    Example:
        >>> roles("Zoe is a sage, and Ben is an egoist.") == roles("Ben is a egoist and Zoe is a sage")
        True
    """
    parts = re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", text(answer).removesuffix("."))
    found = [re.fullmatch(r"(\w+) is an? (\w+)", part) for part in parts]
    if not all(found):
        raise ValueError("it does not say who is what")
    return sorted(" ".join(match.groups()).casefold() for match in found if match)


def of_kind(kind: type, found: Any) -> Any:
    """The value, if it is of that kind."""
    if not isinstance(found, kind):
        raise ValueError(f"it is no {kind.__name__}")
    return found


def _digits(part: str) -> bool:
    if not re.fullmatch(r"\d{1,30}", part):
        raise ValueError(f"{part[:40]!r} is no whole number")
    return True


#: How answers of a generator are read where white space is not all that may differ.
FORMS: dict[str, Callable[[str], Any]] = {
    "advanced_geometry": lambda answer: compact(answer).replace("°", ""),
    "bitwise_arithmetic": folded,
    "calendar_arithmetic": folded,
    "chain_sum": number,
    "color_cube_rotation": folded,
    "complex_arithmetic": complex_number,
    "decimal_arithmetic": number,
    "decimal_chain_sum": number,
    "dice": folded,
    "family_relationships": folded,
    "figlet_font": compact,
    "fraction_simplification": fraction,
    "game_of_life": value,
    "group_anagrams": groups,
    "gsm_symbolic": number,
    "knights_knaves": roles,
    "letter_jumble": folded,
    "needle_haystack": compact,
    "number_format": number,
    "number_sorting": listed_numbers,
    "palindrome_partitioning": partitions,
    "polynomial_equations": roots,
    "pool_matrix": matrix,
    "prime_factorization": primes,
    "products": number,
    "rectangle_count": number,
    "spell_backward": folded,
    "tsumego": folded,
    "word_sequence_reversal": words,
    "word_sorting": words,
    "zebra_puzzles": folded,
}
