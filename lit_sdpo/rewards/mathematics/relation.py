r"""Reads equations, inequalities and memberships: named values and sets where they are that, else relations."""

from __future__ import annotations

import re
from collections.abc import Callable

from lit_sdpo.rewards.mathematics.expression import UnreadableError, read_formula
from lit_sdpo.rewards.mathematics.kinds import Answer, Bracket, Named, Opaque, Relation
from lit_sdpo.rewards.mathematics.sets import RealSet, bounded
from lit_sdpo.rewards.mathematics.text import bracketed, packed, split_top, split_with

_SIGN = re.compile(
    r":=|[<>=]|\\(?:le|ge|ne|in|approx|equiv|sim|simeq|cong|propto|subset|subseteq|notin|to|mapsto|rightarrow|Rightarrow"
    r"|implies|iff)(?![a-zA-Z])"
)
_NAME = re.compile(
    r"(?:[a-zA-Z]|\\(?!frac|sqrt|text|begin|mathbb|pm|mp|infty|pi(?![a-zA-Z]))[a-zA-Z]+(?: ?\{ ?\w+ ?\})?"
    r"|\\text\{[^{}]*\}(?: ?\\text\{[^{}]*\})*|m?\\(?:angle|triangle) ?[A-Z]+|[A-Z]{2,3})"
    r"'*(?: ?_ ?(?:\w|\{[^{}]*\}))?'*(?: ?\([^()]{1,40}\))?\Z"
)
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def relations_of(text: str) -> list[tuple[str, str]]:
    """The sides of a relation, each with the sign behind it."""
    return split_with(text, _SIGN)


def read_relation(text: str, read: Callable[[str], Answer]) -> Answer:
    """A named value or set, a relation, or an opaque text; ``read`` reads what a name stands for."""
    split = relations_of(text)
    sides, signs = [side for side, _ in split], ["=" if sign == ":=" else sign for _, sign in split[:-1]]
    if not all(sides):
        return Opaque(packed(text))
    if set(signs) == {"="}:
        if (named := _assigned(sides, read)) is not None:
            return named
    elif signs == [r"\in"]:
        if (name := _name(sides[0])) is not None:
            return Named(((name, read(sides[1])),))
    elif set(signs) <= set(_FLIPPED) and (found := _bounds(sides, signs)) is not None:
        return Named((found,))
    if set(signs) <= {*_FLIPPED, "="}:
        try:
            return Relation(tuple(read_formula(side) for side in sides), tuple(signs))
        except UnreadableError:
            pass
    return Opaque(packed(text))


def _name(text: str) -> str | None:
    """A text as a name: a letter, word or macro with index, primes and arguments."""
    found = _NAME.match(text)
    return re.sub(r"_\{?([^{}]*)\}?", r"_\1", packed(text)) if found else None


def _assigned(sides: list[str], read: Callable[[str], Answer]) -> Answer | None:
    """What names stand for: ``x = 5``, ``5 = x``, ``x = y = 5``, ``(x, y) = (1, 2)``."""
    if _name(sides[0]) is None and _name(sides[-1]) is not None:
        sides = sides[::-1]
    names = [_name(side) for side in sides[:-1]]
    value = read(sides[-1])
    if all(name is not None for name in names) and len(set(names)) == len(names):
        known = sorted(name for name in names if name is not None)
        if any(_mentions(sides[-1], name) for name in known):
            return None
        return Named(tuple((name, value) for name in known))
    around = bracketed(sides[0])
    if len(sides) == 2 and around and around[0] == "(" and isinstance(value, Bracket) and value.left == "(":
        pointed = [_name(part) for part in split_top(around[1], re.compile(","))]
        inside = [name for name in pointed if name is not None]
        if len(set(inside)) == len(pointed) == len(value.members):
            return Named(tuple(sorted(zip(inside, value.members, strict=True), key=lambda pair: pair[0])))
    return None


def _mentions(text: str, name: str) -> bool:
    """Whether a formula holds the variable that it is said to equal."""
    try:
        return name in read_formula(text).names()
    except UnreadableError:
        return False


def _bounds(sides: list[str], signs: list[str]) -> tuple[str, RealSet] | None:
    """One name between or beside constants: its set of numbers."""
    if len(sides) not in (2, 3):
        return None
    at = 1 if len(sides) == 3 else 0 if _name(sides[0]) is not None else 1
    name = _name(sides[at])
    if name is None or (len(sides) == 3 and not _one_way(signs)):
        return None
    result = RealSet.everything()
    for index, side in enumerate(sides):
        if index != at:
            sign = signs[index - 1] if index > at else _FLIPPED[signs[index]]
            both = sign == r"\ne" and r"\pm" in side
            for one in (side.replace(r"\pm", plus) for plus in "+-") if both else (side,):
                try:
                    found = bounded(sign, read_formula(one))
                except UnreadableError:
                    return None
                if found is None:
                    return None
                result = result.intersection(found)
    return name, result


def _one_way(signs: list[str]) -> bool:
    return set(signs) <= {"<", r"\le"} or set(signs) <= {">", r"\ge"}
