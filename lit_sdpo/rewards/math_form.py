"""Reads the plain forms of mathematical answers exactly: numbers, units, tuples, intervals, sets and lists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_CHARACTERS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u00d7": r"\times ", "\u00b7": r"\cdot ",
     "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2208": r"\in ",
     "\u00b0": r"^\circ ", "\u00a0": " ", "\u2009": " ", "\u202f": " "}
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)  # fmt: skip
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?", ""),
        (r"\\(?:displaystyle|textstyle|limits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:mbox|textbf|textrm|textit|textsf|mathrm|mathbf|mathit|mathsf|operatorname|hbox)\s*\{", r"\\text{"),
        (r"\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}", ""),
        (r"\{,\}", ","),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\(?:[,;:> ]|(?:quad|qquad|thinspace)(?![a-zA-Z]))|~", " "),
        (r"\\l(?:vert|brace)(?![a-zA-Z])", r"\\{"),
        (r"\\leq(?:slant)?(?![a-zA-Z])", r"\\le"),
        (r"\\geq(?:slant)?(?![a-zA-Z])", r"\\ge"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"√\s*(\d+)", r"\\sqrt{\1}"),
        (r"√\s*[({]([^(){}]*)[)}]", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\s+", " "),
    )
)
_DOLLARS = re.compile(r"(?<!\\)\$|(?<!\\)\\[()\[\]]")
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_DECIMAL = re.compile(rf"([+-]?) ?({_NUMBER})(?:[eE]([+-]?\d{{1,3}}))?\Z")
_SCIENTIFIC = re.compile(rf"([+-]?) ?({_NUMBER}) ?\\(?:times|cdot) ?10 ?\^ ?(?=\d\Z|\{{)\{{? ?([+-]?\d{{1,3}}) ?\}}?\Z")
_THOUSANDS = re.compile(r"([+-]?) ?(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+)(\.\d+)?\Z")
_RATIO = re.compile(rf"([+-]?) ?\(?([+-]?{_NUMBER})\)? ?/ ?\(?([+-]?{_NUMBER})\)?\Z")
_FRACTION = re.compile(rf"([+-]?) ?\\frac ?\{{ ?([+-]?{_NUMBER}) ?\}} ?\{{ ?([+-]?{_NUMBER}) ?\}}\Z")
_MIXED = re.compile(r"([+-]?) ?(\d+)(?: ?\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}| (\d+) ?/ ?(\d+))\Z")
_CURRENCY = re.compile(r"\A([+-]?) ?(?:\\?\$|\\text ?\{ ?\\?\$ ?\}|€|£|\\pounds|\\euro|USD) ?")
_PERCENT = re.compile(r" ?(?:\\?%|\\text ?\{ ?\\?% ?\}|\\text ?\{ ?percent ?\}|percent)\Z")
_POWER = r"(?: ?\^ ?(?:\d|\{ ?-?\d ?\}|\\circ|\{ ?\\circ ?\}))?"
_UNIT_TEXT = re.compile(rf" ?\\text ?\{{([^{{}}\d]*(?:\^?\d)?[^{{}}\d]*)\}}{_POWER}\Z")
_UNIT_WORDS = re.compile(rf" ([a-zA-Z][a-zA-Z./ ]{{2,}}){_POWER}\Z|(?<=\d) ?((?:[cmk]?m|[mk]?g|km/h|mph){_POWER})\Z")
_DEGREES = re.compile(r" ?(?:\^ ?\{? ?\\circ ?\}?(?: ?[CF])?|\\degree|\\text ?\{ ?degrees? ?\})\Z")
_NO_UNIT = re.compile(r"\b(?:or|and|to|not|between|than|least|most|if|then|lambda|else|sqrt|frac|pi)\b|[=<>:]")
_METRIC = {"mm", "cm", "dm", "m", "km", "mg", "g", "kg", "ml", "l", "in", "inch", "inches", "ft", "feet", "mile",
           "miles", "second", "seconds", "minute", "minutes", "hour", "hours", "cents", "dollars"}  # fmt: skip
MAX_DIGITS = 2000


@dataclass(frozen=True)
class Number:
    """An exact number as it was written: its value, whether a percent sign stood behind it, and its unit."""

    value: Fraction
    percent: bool = False
    unit: str = ""

    def equals(self, other: Number) -> bool:
        """Same value; a percentage may be written as 50 or as 0.5 where the other side has no percent sign."""
        if self.unit in _METRIC and other.unit in _METRIC and self.unit != other.unit:
            return False
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        percentage, plain = (self, other) if self.percent else (other, self)
        return percentage.value == plain.value * 100


def tidy(text: str) -> str:
    r"""Bring spellings that mean the same to one form, white space and macros above all.

    Example:
        >>> tidy(r"\left( 3,\, \dfrac12 \right).")
        '( 3, \\frac{1}{2} )'
    """
    text = _DOLLARS.sub("", text.translate(_CHARACTERS))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text[:-1].rstrip() if text.endswith((".", ",", ";")) else text


def read_number(text: str) -> Number | None:
    r"""Read a tidied number with or without sign, separators, currency, unit or percent sign; ``None`` if it is none.

    Example:
        >>> read_number("2,220"), read_number(r"-\frac{2}{3}").value, read_number(r"18.00 \text{ dollars}").unit
        (Number(value=Fraction(2220, 1), percent=False, unit=''), Fraction(-2, 3), 'dollars')
    """
    if len(text) > MAX_DIGITS:
        return None
    value = _value(text)
    if value is not None:
        return Number(value)
    text = _CURRENCY.sub(r"\1", text)
    shorter = _PERCENT.sub("", text)
    if shorter != text:
        value = _value(shorter)
        return None if value is None else Number(value, percent=True)
    text, unit = without_unit(_DEGREES.sub("", text))
    value = _value(text)
    return None if value is None else Number(value, unit=unit)


def without_unit(text: str) -> tuple[str, str]:
    r"""A tidied text without the unit at its end, and the unit.

    Example:
        >>> without_unit(r"12\pi \text{ cm}^2"), without_unit(r"3 \text{ or}")
        (('12\\pi', 'cm'), ('3 \\text{ or}', ''))
    """
    for pattern in (_UNIT_TEXT, _UNIT_WORDS):
        if (found := pattern.search(text)) and not _NO_UNIT.search(found.group()):
            unit = next((group for group in found.groups() if group), "")
            return text[: found.start()].rstrip(), unit.strip().rstrip(".").lower()
    return text, ""


def _value(text: str) -> Fraction | None:
    if found := _DECIMAL.match(text) or _SCIENTIFIC.match(text):
        sign, digits, exponent = found.groups()
        return _signed(sign, Fraction(digits) * Fraction(10) ** int(exponent or 0))
    if found := _THOUSANDS.match(text):
        sign, digits, rest = found.groups()
        return _signed(sign, Fraction(re.sub("[, ]", "", digits) + (rest or "")))
    for pattern in (_FRACTION, _RATIO):
        if found := pattern.match(text):
            sign, above, below = found.groups()
            return _signed(sign, Fraction(above) / Fraction(below)) if Fraction(below) else None
    if found := _MIXED.match(text):
        sign, whole, *parts = found.groups()
        above, below = (int(part) for part in parts if part)
        return _signed(sign, int(whole) + Fraction(above, below)) if below else None
    return None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    r"""Split where a separator stands outside of all brackets.

    Example:
        >>> split_top("(2,32), (8,18)", re.compile(","))
        ['(2,32)', '(8,18)']
    """
    parts, depth, begin, at = [], 0, 0, 0
    while at < len(text):
        if text[at] in "([{":
            depth += 1
        elif text[at] in ")]}":
            depth -= 1
        elif depth == 0 and (found := separator.match(text, at)):
            parts.append(text[begin:at].strip())
            begin = at = found.end()
            continue
        at += 1
    parts.append(text[begin:].strip())
    return parts


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, inside and closing bracket of a text that is one bracket as a whole.

    Example:
        >>> bracketed(r"\{1,2\}"), bracketed("(2,5]"), bracketed("(1)(2)")
        (('{', '1,2', '}'), ('(', '2,5', ']'), None)
    """
    if text.startswith(r"\{") and text.endswith(r"\}"):
        left, inside, right = "{", text[2:-2], "}"
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        left, inside, right = text[0], text[1:-1], text[-1]
    else:
        return None
    depth = 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
    return (left, inside.strip(), right) if depth == 0 else None
