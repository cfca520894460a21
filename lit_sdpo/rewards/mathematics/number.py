r"""Reads numbers exactly as they were written, with multiplying words, percent sign and unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from lit_sdpo.rewards.mathematics.unit import Unit, multiplier, read_unit

_PLAIN = r"(?:\d+\.?\d*|\.\d+)"
_DECIMAL = re.compile(rf"([+-]?) ?({_PLAIN})(?:[eE]([+-]?\d{{1,3}}))?\Z")
_SCIENTIFIC = re.compile(
    rf"([+-]?) ?(?:({_PLAIN}) ?(?:\\(?:times|cdot)|\*|x) ?)?10 ?\^ ?(?=\d\Z|-?\d+\Z|\{{)\{{? ?([+-]?\d{{1,3}}) ?\}}?\Z"
)
_THOUSANDS = re.compile(r"([+-]?) ?(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+)(\.\d+)?\Z")
_RATIO = re.compile(rf"([+-]?) ?\(?([+-]?{_PLAIN})\)? ?/ ?\(?([+-]?{_PLAIN})\)?\Z")
_PART = rf"(?:\{{ ?([+-]?{_PLAIN}|[+-]?\d{{1,3}}(?:,\d{{3}})+) ?\}}|(\d))"
_FRACTION = re.compile(rf"([+-]?) ?\\frac ?{_PART} ?{_PART}\Z")
_MIXED = re.compile(
    r"([+-]?) ?(\d+) ?(?:\\frac ?(?:\{ ?(\d+) ?\}|(\d)) ?(?:\{ ?(\d+) ?\}|(\d))|(?<= )(\d+) ?/ ?(\d+))\Z"
)
_REPEATING = re.compile(r"([+-]?) ?(\d*)\.(\d*) ?\\overline ?\{ ?(\d+) ?\}\Z")
_PERCENT = re.compile(r" ?(?:\\?%|\\text ?\{ ?(?:\\?%|percent|per cent|Prozent|процентов|процента|процент) ?\})\Z")
_CURRENCY = re.compile(
    r"\A([+-]?) ?(\\\$|¥|₹|₽|₩|\\(?:pounds|euro|yen)(?![a-zA-Z])"
    r"|\\text\{(?:USD|EUR|GBP|CNY|RMB|JPY|INR|Rs\.?|US) ?\}(?: ?\\\$)?) ?"
)
_TAIL = re.compile(
    r"(?: ?(?:/|\\cdot|\\times|\*)? ?(?:\\text ?\{[^{}\d]*\}|\^\\circ ?(?:\\text\{[CF]\}|[CF](?![a-zA-Z]))|\\%"
    r"|\\(?:euro|pounds)(?![a-zA-Z])|[¢¥₽₩₹])(?: ?\^ ?(?:\d|\{ ?-?\d ?\}))?)+\Z"
    r"| ?\\frac ?\{ ?\\text ?\{[^{}\d]*\}(?:\^\d)? ?\} ?\{ ?\\text ?\{[^{}\d]*\}(?:\^\d)? ?\}\Z"
)
_SQUARED = re.compile(r" ?\\text\{(squared|cubed|factorial)\}\Z")
_FORMS = {"squared": "({})^2", "cubed": "({})^3", "factorial": "({})!"}
#: Longest text that is read as a number.
MAX_DIGITS = 2000


@dataclass(frozen=True)
class Dressed:
    """A value in what was written around it.

    Attributes:
        core: The text of the value itself.
        factor: What multiplying words make of it.
        percent: Whether a percent sign stands behind it.
        units: The readings of its unit; empty without one.
    """

    core: str
    factor: Fraction = Fraction(1)
    percent: bool = False
    units: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class Number:
    """An exact number as it was written: its value, whether a percent sign stood behind it, readings of its unit."""

    value: Fraction
    percent: bool = False
    units: tuple[Unit, ...] = ()

    def candidates(self, truth: Number) -> tuple[tuple[Fraction, Fraction], ...]:
        """Pairs of numbers, this one's and the truth's, one of which has to be equal for the two to be.

        A percentage stands for its hundredth, and for the number in front of the sign where both that and the other
        side are greater than 1 (*what percentage ...?* is answered by 50 or by 50 %). Units that differ are converted
        where they measure the same; where they do not, nothing is equal. A unit on one side alone does not matter.
        """
        if self.units and truth.units:
            return tuple(
                (self.value * mine.factor, truth.value * other.factor)
                for mine in self.units
                for other in truth.units
                if mine.powers == other.powers
            )
        if self.percent == truth.percent:
            return ((self.value, truth.value),)
        if self.units or truth.units:
            return ()
        hundredths = (self.value / (100 if self.percent else 1), truth.value / (100 if truth.percent else 1))
        return (hundredths, (self.value, truth.value)) if min(abs(self.value), abs(truth.value)) > 1 else (hundredths,)

    def equals(self, other: Number) -> bool:
        """Whether both are the same number."""
        return any(mine == others for mine, others in self.candidates(other))


def undress(text: str) -> Dressed:
    r"""Take currency, percent sign, unit and multiplying words off a tidied text.

    Example:
        >>> undress(r"5 \text{million}").factor, undress(r"12\pi \text{cm}^2").core, undress(r"5 \text{xyz}").core
        (Fraction(1000000, 1), '12\\pi', '5 \\text{xyz}')
    """
    currency = _CURRENCY.match(text)
    units: tuple[Unit, ...] = ()
    core = text
    if currency:
        core = currency[1] + text[currency.end() :]
        units = read_unit(re.sub(r"\\text\{([^{}]*)\}", r"\1", currency[2]).replace("\\yen", "¥"))
    if (shorter := _PERCENT.sub("", core)) != core:
        return Dressed(shorter.rstrip(), percent=True) if not currency and shorter else Dressed(text)
    tail = _TAIL.search(core)
    if not tail or not core[: tail.start()].strip():
        return Dressed(core, units=units) if currency else Dressed(text)
    factor, words = _multiplied(_unit_text(tail.group()))
    core = core[: tail.start()].rstrip()
    if words:
        found = read_unit(words)
        if currency and words.lstrip().startswith(("/", "per")):
            found = read_unit(re.sub(r"\\text\{([^{}]*)\}", r"\1", currency[2]) + " " + words)
        elif currency:
            found = tuple(unit for unit in found if unit in units)
        if not found:
            return Dressed(text)
        units = found
    return Dressed(core, factor, units=units)


def _unit_text(tail: str) -> str:
    fraction = re.match(r" ?\\frac ?\{(.*)\} ?\{(.*)\}\Z", tail)
    text = f"{fraction[1]}/{fraction[2]}" if fraction else tail
    text = re.sub(r"\^\\circ ?(?:\\text\{([CF])\}|([CF]))", lambda found: f" °{found[1] or found[2]} ", text)
    return re.sub(r"\\text ?\{([^{}]*)\}", r" \1 ", text.replace(r"^\circ", " ° ")).strip()


def _multiplied(text: str) -> tuple[Fraction, str]:
    """What the leading words multiply by, and the rest of the words."""
    factor, words = Fraction(1), text.split()
    while words:
        word = words[0].rstrip(".").lower()
        if (size := multiplier(word)) is not None:
            words = words[1:]
        elif not word[0].isascii() and not read_unit(word) and (size := multiplier(word[0])) is not None:
            words[0] = word[1:]  # Scripts that write the number word and the unit together.
        else:
            break
        factor *= size
    if factor != 1 and words and words[0] == "of":
        words = words[1:]
    return factor, " ".join(words)


def spelled_power(text: str) -> str:
    r"""A tidied text whose last word is a power or factorial, with the sign for it.

    Example:
        >>> spelled_power(r"13 \text{squared}"), spelled_power("13")
        ('(13)^2', '13')
    """
    found = _SQUARED.search(text)
    return _FORMS[found[1]].format(text[: found.start()]) if found else text


def read_number(text: str) -> Number | None:
    r"""Read a tidied number with or without sign, separators, currency, unit or percent sign; ``None`` if it is none.

    Example:
        >>> read_number("2,220").value, read_number(r"-\frac{2}{3}").value, read_number(r"5 \text{million}").value
        (Fraction(2220, 1), Fraction(-2, 3), Fraction(5000000, 1))
    """
    if len(text) > MAX_DIGITS:
        return None
    value = exact_value(text)
    if value is not None:
        return Number(value)
    dressed = undress(text)
    value = exact_value(dressed.core) if dressed.core != text else None
    return None if value is None else Number(value * dressed.factor, dressed.percent, dressed.units)


def exact_value(text: str) -> Fraction | None:
    """The value of a bare number: decimal, scientific, repeating, fraction or mixed, with thousands separators."""
    if len(text) > MAX_DIGITS:
        return None
    if found := _DECIMAL.match(text) or _SCIENTIFIC.match(text):
        sign, digits, exponent = found.groups()
        return _signed(sign, Fraction(digits or 1) * Fraction(10) ** int(exponent or 0))
    if found := _THOUSANDS.match(text):
        sign, digits, rest = found.groups()
        return _signed(sign, Fraction(re.sub("[, ]", "", digits) + (rest or "")))
    if found := _RATIO.match(text):
        sign, above, below = found.groups()
        return _signed(sign, Fraction(above) / Fraction(below)) if Fraction(below) else None
    if found := _FRACTION.match(text):
        sign, *parts = found.groups()
        above, below = (Fraction(part.replace(",", "")) for part in parts if part)
        return _signed(sign, above / below) if below else None
    if found := _MIXED.match(text):
        sign, whole, *parts = found.groups()
        upper, lower = (int(part) for part in parts if part)
        return _signed(sign, int(whole) + Fraction(upper, lower)) if upper < lower else None
    if found := _REPEATING.match(text):
        sign, whole, head, period = found.groups()
        shift = 10 ** len(head)
        return _signed(
            sign, Fraction(int(whole + head or 0), shift) + Fraction(int(period), (10 ** len(period) - 1) * shift)
        )
    return None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
