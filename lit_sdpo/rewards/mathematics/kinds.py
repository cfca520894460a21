"""Kinds of mathematical answers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lit_sdpo.rewards.mathematics.formula import Node
from lit_sdpo.rewards.mathematics.sets import RealSet
from lit_sdpo.rewards.mathematics.unit import Unit


@dataclass(frozen=True)
class Quantity:
    """A number or formula, with a percent sign or unit where it has one."""

    node: Node
    percent: bool = False
    units: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class Items:
    """Answers without order: a list, a set in braces, or the parts of a union that is no set of numbers."""

    members: tuple[Answer, ...]
    kind: str = "list"


@dataclass(frozen=True)
class Bracket:
    """Answers in order in round or square brackets: a tuple, a point or an interval."""

    left: str
    members: tuple[Answer, ...]
    right: str


@dataclass(frozen=True)
class Named:
    """What each name stands for, such as ``x = 1, y = 2``."""

    values: tuple[tuple[str, Answer], ...]


@dataclass(frozen=True)
class Relation:
    """An equation or inequality that is no named value: the sides and the signs between them."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Cells by row; ``fence`` says a determinant from a matrix."""

    rows: tuple[tuple[Answer, ...], ...]
    fence: str
    scale: Node


@dataclass(frozen=True)
class Parts:
    """Numbers with colons or *to* between them: a clock or a ratio; ``half`` is am or pm."""

    values: tuple[Fraction, ...]
    half: str = ""


@dataclass(frozen=True)
class Based:
    """Digits in a base."""

    digits: str
    base: str


@dataclass(frozen=True)
class Words:
    """Words, or letters that may be a word, in their order."""

    text: str
    node: Node | None = None


@dataclass(frozen=True)
class Opaque:
    """A text that is none of the others."""

    text: str


Answer = Quantity | Items | Bracket | Named | Relation | RealSet | Matrix | Parts | Based | Words | Opaque


def real_set(answer: Answer) -> RealSet | None:
    """The real numbers that an interval, a set of numbers or a named one of these holds; ``None`` if it is none."""
    if isinstance(answer, RealSet):
        return answer
    if isinstance(answer, Named) and len(answer.values) == 1:
        return real_set(answer.values[0][1])
    if isinstance(answer, Bracket) and len(answer.members) == 2:
        low, high = answer.members
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            return RealSet.interval(low.node, answer.left == "[", high.node, answer.right == "]")
    if isinstance(answer, Items) and answer.kind in ("set", "list"):
        union = RealSet(())
        for member in answer.members:
            point = RealSet.point(member.node) if isinstance(member, Quantity) and not member.units else None
            if point is None:
                return None
            union = union.union(point)
        return union
    return None
