"""A few lines of Python about one string, run without ``eval``: nothing but the grammar below is ever executed.

function   = "def f(s):" line+
line       = "s = " sum | "return " sum
sum        = product ("+" product)*
product    = value ("*" digits)?
value      = ("s" | quoted) (".upper()" | ".lower()" | ".replace(quoted, quoted)" | "[a:b:c]")*
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_LONGEST = 1000
_HEAD = re.compile(r"\s*def f\(s\):[ \t]*\n")
_STATEMENT = re.compile(r"[ \t]+(s = |return )(.*)")
_VALUE = re.compile(r" *(?:(s)\b|'([^'\\]{0,99})'|\"([^\"\\]{0,99})\")")
_METHOD = re.compile(r"\.(upper|lower)\(\)")
_REPLACE = re.compile(r"\.replace\( *(['\"])([^'\"\\]{0,99})\1 *, *(['\"])([^'\"\\]{0,99})\3 *\)")
_SLICE = re.compile(r"\[ *(-?[0-9]{1,3})? *: *(-?[0-9]{1,3})? *(?:: *(-?[0-9]{1,3})? *)?\]")
_TIMES = re.compile(r" *\* *([0-9]{1,3})")
_PLUS = re.compile(r" *\+")


class RefusedError(ValueError):
    """The text is not in the grammar, or its result grows too long."""


@dataclass(frozen=True)
class _Product:
    """A value, what is done to it in turn, and how often it is repeated; ``start`` is ``None`` for ``s`` itself."""

    start: str | None
    changes: tuple[Callable[[str], str], ...]
    times: int

    def __call__(self, s: str) -> str:
        value = s if self.start is None else self.start
        for change in self.changes:
            value = _short(change(value))
        return value if self.times == 1 else _short(value, self.times) * self.times


def _short(value: str, times: int = 1) -> str:
    if len(value) * times > _LONGEST:
        raise RefusedError("a text grows too long")
    return value


def _change(text: str, at: int) -> tuple[Callable[[str], str], int] | None:
    """The method or slice at a position, and the position behind it."""
    if match := _METHOD.match(text, at):
        return (str.upper if match[1] == "upper" else str.lower), match.end()
    if match := _REPLACE.match(text, at):
        old, new = match[2], match[4]
        return (lambda value: value.replace(old, new)), match.end()
    if match := _SLICE.match(text, at):
        cut = slice(*(int(group) if group else None for group in match.groups()))
        if cut.step == 0:
            raise RefusedError("a slice has step zero")
        return (lambda value: value[cut]), match.end()
    return None


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[_Product, ...]:
    """The products of a ``sum``; the same few statements come again and again, so they are kept."""
    at, products = 0, []
    while match := _VALUE.match(text, at):
        start, at, changes = None if match[1] else match[2] or match[3] or "", match.end(), []
        while found := _change(text, at):
            changes.append(found[0])
            at = found[1]
        times = 1
        if match := _TIMES.match(text, at):
            times, at = int(match[1]), match.end()
        products.append(_Product(start, tuple(changes), times))
        if not text[at:].strip():
            return tuple(products)
        if not (match := _PLUS.match(text, at)):
            break
        at = match.end()
    raise RefusedError("a statement is not understood")


def evaluate(text: str, s: str) -> str:
    """The value of a ``sum`` for one ``s``.

    Raises:
        RefusedError: Not in the grammar, or longer than a thousand characters.

    Example:
        >>> evaluate("s.upper() + 'x' * 2", "ab")
        'ABxx'
    """
    if len(text) > _LONGEST:
        raise RefusedError("a statement is too long")
    return _short("".join([product(s) for product in _parse(text)]))


def run(source: str, inputs: Sequence[str]) -> list[str]:
    r"""What the function returns for each input.

    Raises:
        RefusedError: The source is not in the grammar, never returns, or its result grows too long.

    Example:
        >>> run("def f(s):\n    s = s[::-1]\n    return s", ["ab"])
        ['ba']
    """
    head = _HEAD.match(source)
    if head is None:
        raise RefusedError("it does not start with the head of f")
    statements = []
    for line in source[head.end() :].splitlines():
        if not line.strip():
            continue
        match = _STATEMENT.fullmatch(line)
        if match is None:
            raise RefusedError("a statement is not understood")
        statements.append(match.groups())
    return [_call(statements, s) for s in inputs]


def _call(statements: Sequence[Sequence[str]], s: str) -> str:
    for kind, expression in statements:
        s = evaluate(expression, s)
        if kind == "return ":
            return s
    raise RefusedError("it never returns")
