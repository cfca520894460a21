"""Whether two answers are equal, kind by kind; kinds that differ are equal only where both mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from lit_sdpo.rewards.mathematics.compare import equal, proportional
from lit_sdpo.rewards.mathematics.formula import Node, number
from lit_sdpo.rewards.mathematics.kinds import (
    Answer,
    Based,
    Bracket,
    Items,
    Matrix,
    Named,
    Parts,
    Quantity,
    Relation,
    Words,
    real_set,
)
from lit_sdpo.rewards.mathematics.sets import RealSet
from lit_sdpo.rewards.mathematics.value import exact, real_value

_PI = Node("const", value="pi")


def answers_equal(left: Answer, right: Answer, inside: bool = False) -> bool:
    """Whether two answers are equal; ``inside`` of a collection a set with one member is not that member."""
    if left == right:
        return True
    for mine, other in ((left, right), (right, left)):
        if (verdict := _by_kind(mine, other, inside)) is not None:
            return verdict
    return False


def _by_kind(left: Answer, right: Answer, inside: bool) -> bool | None:
    """The verdict where the kind of the left side knows what to do with the right side."""
    match left, right:
        case Quantity(), Quantity():
            return _quantities(left, right)
        case Named(), Named():
            return _named(left, right)
        case Named(), Relation():
            return any(_relations(own, right) for own in _equations(left))
        case Named(), _ if not inside or len(left.values) > 1:
            return _named_and_bare(left, right) or None
        case RealSet(), _:
            other = real_set(right)
            return None if other is None else left.same(other)
        case Items(), Items():
            return _items(left, right)
        case Items(kind="set"), Quantity() | Words() | Bracket() if not inside and len(left.members) == 1:
            return answers_equal(left.members[0], right, inside=True)
        case Items(kind="list"), _ if len(left.members) == 1:
            return answers_equal(left.members[0], right, inside)
        case Bracket(), Bracket():
            return (left.left, left.right) == (right.left, right.right) and _in_order(left.members, right.members)
        case Relation(), Relation():
            return _relations(left, right)
        case Matrix(), Matrix():
            return _matrices(left, right)
        case Parts(), Parts() | Quantity():
            return _parts(left, right)
        case Words(), Words():
            return _words(left, right)
        case Words(), Quantity() if left.node is not None:
            return not right.units and not right.percent and equal(left.node, right.node)
        case Based(), Based():
            return left == right
        case _:
            return None


def _quantities(left: Quantity, right: Quantity) -> bool:
    if left.units and right.units:
        return any(
            _converted(left.node, mine.factor, right.node, other.factor)
            if mine.powers == other.powers
            else mine.angle != "" != other.angle and mine.angle != other.angle
            and equal(_radians(left.node, mine.angle, mine.factor), _radians(right.node, other.angle, other.factor))
            for mine in left.units
            for other in right.units
        )  # fmt: skip
    if left.percent != right.percent:
        return _percent(left, right) if left.percent else _percent(right, left)
    if equal(left.node, right.node):
        return True
    for dressed, bare in ((left, right), (right, left)):
        if dressed.units and dressed.units[0].angle == "degree" and bare.node.has("pi"):
            return equal(_radians(dressed.node, "degree", dressed.units[0].factor), bare.node)
    return False


def _converted(left: Node, factor: Fraction, right: Node, other: Fraction) -> bool:
    return equal(_scaled(left, factor / other), right)


def _scaled(node: Node, factor: Fraction) -> Node:
    return node if factor == 1 else Node("mul", (node, number(factor)))


def _radians(node: Node, angle: str, factor: Fraction) -> Node:
    scaled = _scaled(node, factor)
    return Node("div", (Node("mul", (scaled, _PI)), number(180))) if angle == "degree" else scaled


def _percent(percentage: Quantity, bare: Quantity) -> bool:
    """50 % is 0.5; it is 50 too where nobody can take that for a share, above 1."""
    if bare.units:
        return False
    if equal(_scaled(percentage.node, Fraction(1, 100)), bare.node):
        return True
    values = real_value(percentage.node), real_value(bare.node)
    return all(value is not None and abs(value) > 1 for value in values) and equal(percentage.node, bare.node)


def _named(left: Named, right: Named) -> bool:
    mine, other = dict(left.values), dict(right.values)
    if mine.keys() == other.keys():
        return all(answers_equal(mine[name], other[name]) for name in mine)
    return len(mine) == len(other) == 1 and any(_relations(a, b) for a in _equations(left) for b in _equations(right))


def _equations(named: Named) -> list[Relation]:
    """A named value as an equation in its name, where that is a variable."""
    if len(named.values) != 1:
        return []
    ((name, value),) = named.values
    letter = name.isalpha() and len(name) == 1
    if not letter or not isinstance(value, Quantity) or value.units or value.percent or not value.node.names():
        return []
    return [Relation((Node("var", value=name), value.node), ("=",))]


def _named_and_bare(left: Named, right: Answer) -> bool:
    """``x = 5`` is 5; ``x = 3, y = 4`` is (3, 4) and the list 3, 4, both in the order of the names."""
    values = [value for _, value in left.values]
    if len(values) == 1:
        return answers_equal(values[0], right)
    if isinstance(right, Bracket) and (right.left, right.right) == ("(", ")"):
        return _in_order(values, right.members)
    return isinstance(right, Items) and right.kind == "list" and _in_order(values, right.members)


def _items(left: Items, right: Items) -> bool:
    if "union" in (left.kind, right.kind):
        return left.kind == right.kind and _matched(left.members, right.members)
    if "set" in (left.kind, right.kind):
        return _within(left.members, right.members) and _within(right.members, left.members)
    return _matched(left.members, right.members)


def _within(members: Sequence[Answer], others: Sequence[Answer]) -> bool:
    return all(any(answers_equal(member, other, inside=True) for other in others) for member in members)


def _matched(left: Sequence[Answer], right: Sequence[Answer]) -> bool:
    """Whether two lists hold equal members, one to one."""
    if len(left) != len(right):
        return False
    rest = list(right)
    for item in left:
        partner = next((index for index, other in enumerate(rest) if answers_equal(item, other, inside=True)), None)
        if partner is None:
            return False
        del rest[partner]
    return True


def _in_order(left: Sequence[Answer], right: Sequence[Answer]) -> bool:
    return len(left) == len(right) and all(
        answers_equal(mine, other, inside=True) for mine, other in zip(left, right, strict=True)
    )


def _relations(left: Relation, right: Relation) -> bool:
    """Equations with proportional differences of their sides; inequalities with the same direction too."""
    mine, other = _upward(left), _upward(right)
    if mine.signs != other.signs:
        return False
    if len(mine.sides) == 2:
        return proportional(_difference(mine), _difference(other), positive=mine.signs[0] not in ("=", r"\ne"))
    return all(equal(a, b) for a, b in zip(mine.sides, other.sides, strict=True))


def _difference(relation: Relation) -> Node:
    return Node("add", (relation.sides[0], Node("neg", (relation.sides[1],))))


def _upward(relation: Relation) -> Relation:
    """Written from the smaller to the greater side."""
    if set(relation.signs) <= {">", r"\ge", "="} and set(relation.signs) != {"="}:
        flip = {">": "<", r"\ge": r"\le", "=": "="}
        return Relation(relation.sides[::-1], tuple(flip[sign] for sign in relation.signs[::-1]))
    return relation


def _matrices(left: Matrix, right: Matrix) -> bool:
    if left.fence != right.fence or [len(row) for row in left.rows] != [len(row) for row in right.rows]:
        return False
    return all(
        answers_equal(_times(left.scale, mine), _times(right.scale, other), inside=True)
        for row, others in zip(left.rows, right.rows, strict=True)
        for mine, other in zip(row, others, strict=True)
    )


def _times(scale: Node, cell: Answer) -> Answer:
    if exact(scale) == 1 or not isinstance(cell, Quantity):
        return cell
    return Quantity(Node("mul", (scale, cell.node)), cell.percent, cell.units)


def _parts(left: Parts, right: Answer) -> bool:
    """Clocks by the time of day, ratios as they are written; ``9 am`` is 9."""
    if isinstance(right, Parts):
        return _of_day(left) == _of_day(right) and (bool(left.half) == bool(right.half) or len(left.values) > 1)
    if isinstance(right, Quantity) and len(left.values) == 1 and left.half == "a" and not right.units:
        return equal(number(left.values[0]), right.node)
    return False


def _of_day(parts: Parts) -> tuple[Fraction, ...]:
    if not parts.half:
        return parts.values
    hour = parts.values[0] % 12 + (12 if parts.half == "p" else 0)
    rest = parts.values[1:] or (Fraction(0),)
    return (hour, *rest)


def _words(left: Words, right: Words) -> bool:
    """Words in any case, but letters, formulas of chemistry and the like (``Aa``, ``CO``) in theirs."""
    mine, other = left.text.split(), right.text.split()
    return len(mine) == len(other) and all(
        a == b or (a.casefold() == b.casefold() and _has_no_case(a) and _has_no_case(b))
        for a, b in zip(mine, other, strict=True)
    )


def _has_no_case(word: str) -> bool:
    usual = word in (word.lower(), word.upper(), word.capitalize())
    return usual and (len(word) > 3 or word.casefold() in ("no", "yes") or (len(word) == 3 and not word.isupper()))
