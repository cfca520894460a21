r"""Units that an answer may carry: a known list of measures, currencies and counted things, with exact factors.

A word that is not known here is never a unit, so it is never dropped from an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files

#: A unit as powers of base units, in order of their names.
Powers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """One reading of a unit: how many of its base units it is. A word may have several readings, such as pounds."""

    factor: Fraction
    powers: Powers

    @property
    def angle(self) -> str:
        """``degree`` or ``radian`` for a plain angle, else empty."""
        return self.powers[0][0] if self.powers in ((("degree", 1),), (("radian", 1),)) else ""


#: Abbreviations that stand for themselves without a text macro, as ``5 cm``; ``5m`` is five times a variable.
_BARE = frozenset({
    "cm", "km", "kg", "ml", "mL", "mph", "kmh", "lb", "lbs", "oz", "ft", "hr", "hrs", "min", "mins", "sec",
     "secs", "gm", "gms", "yd", "yds", "USD", "EUR", "rad", "deg", "Hz", "kWh", "mol", "mmol", "mm"
})  # fmt: skip
#: Words that say what kind of thing is counted, in front of it.
_QUALITIES = frozenset({
    "red", "blue", "green", "yellow", "white", "black", "brown", "pink", "purple", "orange", "gray", "grey",
     "small", "large", "big", "whole", "different", "distinct", "possible", "positive", "total", "full", "new"
})  # fmt: skip
_TOKEN = re.compile(
    r"\^ ?\{ ?(-?\d+) ?\}|\^ ?(-?\d+)|(/|\bper\b)|[·*]|\\cdot|\\times|([()])"
    r"|((?:\\\$|\\[a-zA-Z]+|°[CF]?|[^\s\d/·*^(){}\\])+)"
)


@lru_cache(maxsize=4096)
def read_unit(text: str) -> tuple[Unit, ...]:
    r"""All readings of a unit written as words, symbols and powers; empty where it holds a word that is not known.

    Example:
        >>> [unit.powers for unit in read_unit("meters per second")], read_unit("m/s") == read_unit("meters per second")
        ([(('metre', 1), ('second', -1))], True)
        >>> len(read_unit("pounds")), read_unit("xyz")
        (2, ())
    """
    readings: list[Unit] = [Unit(Fraction(1), ())]
    sign, power = 1, 1
    last: tuple[Unit, ...] = ()
    tokens = list(_merged(_TOKEN.findall(text)))
    if _TOKEN.sub("", text).strip() or not tokens or len(tokens) > 20:
        return ()
    for kind, value in tokens:
        if kind == "per":
            sign = -1
        elif kind == "group":
            if value != "(" and value != ")":
                return ()
        elif kind == "ahead":
            power = int(value)
        elif kind == "power":
            if not last:
                return ()
            readings = [_times(unit, other, int(value) - 1) for unit, other in zip(readings, last, strict=True)]
        else:
            found = _named(value)
            if not found:
                return ()
            pairs = [(unit, other) for unit in readings for other in found]
            last = tuple(
                Unit(other.factor**sign, tuple((name, n * sign) for name, n in other.powers)) for _, other in pairs
            )
            readings = [_times(unit, other, power) for (unit, _), other in zip(pairs, last, strict=True)]
            power = 1
    return tuple(dict.fromkeys(readings)) if last and power == 1 else ()


def _merged(tokens: list[tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Tokens with their kinds; words that belong together as one."""
    words = [
        (braced or bare, per, group, word)
        for braced, bare, per, group, word in tokens
        if any((braced, bare, per, group, word))
    ]
    at = 0
    while at < len(words):
        power, per, group, word = words[at]
        plain = word.rstrip(".").lower()
        pair = f"{plain}-{words[at + 1][3].rstrip('.').lower()}" if at + 1 < len(words) and word else ""
        if pair and _known(pair):
            yield "word", pair
            at += 1
        elif power:
            yield "power", power
        elif per:
            yield "per", per
        elif group:
            yield "group", group
        elif plain in ("square", "sq", "squared"):
            yield ("power" if plain == "squared" else "ahead"), "2"
        elif plain in ("cubic", "cu", "cubed"):
            yield ("power" if plain == "cubed" else "ahead"), "3"
        elif plain in ("a", "an", "each"):
            yield "per", word
        elif not (plain in _QUALITIES and at + 1 < len(words) and words[at + 1][3]):
            yield "word", word
        at += 1


def _times(unit: Unit, other: Unit, power: int) -> Unit:
    powers = dict(unit.powers)
    for name, n in other.powers:
        powers[name] = powers.get(name, 0) + n * power
    return Unit(unit.factor * other.factor**power, tuple(sorted((name, n) for name, n in powers.items() if n)))


def _named(word: str) -> tuple[Unit, ...]:
    """Readings of one word."""
    return _known(word.rstrip(".")) or _known(word.rstrip(".").lower() if len(word) > 2 else "")


def _known(word: str) -> tuple[Unit, ...]:
    table = _words().units
    found = table.get(word)
    if found is None and word.lower() == word and len(word) > 3:
        found = next((table[one] for one in _singulars(word) if one in table), None)
    if found is not None:
        return found
    noun = next((one for one in (word, *_singulars(word)) if one in _nouns()), None)
    return (Unit(Fraction(1), ((noun, 1),)),) if noun else ()


def _singulars(word: str) -> Iterator[str]:
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if re.search("(?:s|x|z|ch|sh|o)es$", word):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]


@dataclass(frozen=True)
class _Words:
    """The known words."""

    units: dict[str, tuple[Unit, ...]]
    multipliers: dict[str, Fraction]


@lru_cache(maxsize=1)
def _words() -> _Words:
    """Read ``assets/units.txt``; its lines are explained there."""
    known = _Words({}, {})
    section = ""
    for line in _lines("units.txt"):
        if line.startswith("["):
            section = line.strip("[]")
            continue
        if section == "=":
            names, _, definition = line.partition(" = ")
            size, *parts = definition.split()
            unit = Unit(Fraction(size), ())
            for part in parts:
                name, _, power = part.partition("^")
                unit = _times(unit, known.units[name][0], int(power or 1))
        else:
            size, _, names = line.partition(" ")
            unit = Unit(Fraction(size), ((section, 1),))
        for name in names.split():
            if section == "*":
                known.multipliers[name] = unit.factor
            else:
                known.units[name] = (*known.units.get(name, ()), unit)
    return known


def _lines(name: str) -> list[str]:
    """Lines of an asset without comments and blank ones."""
    text = files("lit_sdpo").joinpath("assets", name).read_text(encoding="utf-8")
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def multiplier(word: str) -> Fraction | None:
    """What a word such as *million* multiplies the number in front of it by; ``None`` for other words.

    Example:
        >>> multiplier("dozen"), multiplier("apples") is None
        (Fraction(12, 1), True)
    """
    return _words().multipliers.get(word)


@lru_cache(maxsize=1)
def _nouns() -> frozenset[str]:
    """Counted things in the singular, where the plural is regular."""
    found = set()
    for plural in _lines("counted_nouns.txt"):
        if plural.endswith("ies"):
            found.add(plural[:-3] + "y")
        elif re.search("(?:ss|sh|ch|x|z|o)es$", plural):
            found.add(plural[:-2])
        found.add(plural[:-1] if plural.endswith("s") else plural)
    return frozenset(found)


def is_plain_word(word: str, after_number: bool) -> bool:
    """Whether letters outside of a text macro are a word rather than variables or a function."""
    plain = word.rstrip(".")
    if not plain.isascii():
        return True
    if plain in ("or", "and", "per"):
        return True
    if after_number:
        if plain.lower() in ("to", "am", "pm", "a.m", "p.m", "bc", "ad", "bce", "ce"):
            return True
        if plain in _BARE or multiplier(plain) is not None:
            return True
        if plain.lower() in ("squared", "cubed", "percent"):
            return True
    return len(plain) > 3 and plain.lower() not in _FUNCTION_NAMES


_FUNCTION_NAMES = frozenset({
    "sqrt", "cbrt", "sinh", "cosh", "tanh", "asin", "acos", "atan", "arcsin", "arccos", "arctan", "frac",
     "infty", "infinity", "theta", "alpha", "beta", "gamma", "delta"
})  # fmt: skip
