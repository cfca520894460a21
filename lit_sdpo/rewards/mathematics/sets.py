r"""Sets of real numbers as unions of intervals, so that inequalities, unions and differences are one kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cmp_to_key
from itertools import pairwise
from typing import Any

from lit_sdpo.rewards.mathematics.compare import equal
from lit_sdpo.rewards.mathematics.formula import Node
from lit_sdpo.rewards.mathematics.value import real_value

INFINITY = Node("const", value="infty")
MINUS_INFINITY = Node("neg", (INFINITY,))


@dataclass(frozen=True)
class Edge:
    """One end of an interval: where it is, and which side of that point; ``after`` cuts behind it."""

    node: Node
    after: bool

    def value(self) -> Any:
        """The number, or an infinity."""
        found = real_value(self.node)
        assert found is not None
        return found


def _order(left: Edge, right: Edge) -> int:
    mine, other = left.value(), right.value()
    if mine == other or equal(left.node, right.node):
        return left.after - right.after
    return -1 if mine < other else 1


@dataclass(frozen=True)
class RealSet:
    """Disjoint intervals in order; each is a pair of edges.

    Example:
        >>> from lit_sdpo.rewards.mathematics.formula import number
        >>> whole, point = RealSet.everything(), RealSet.point(number(0))
        >>> len(whole.without(point).pieces), whole.without(point).union(point).same(whole)
        (2, True)
    """

    pieces: tuple[tuple[Edge, Edge], ...]

    @classmethod
    def interval(cls, low: Node, low_closed: bool, high: Node, high_closed: bool) -> RealSet | None:
        """The interval between two real constants; ``None`` where they are none, or in the wrong order."""
        if real_value(low) is None or real_value(high) is None or low == INFINITY or high == MINUS_INFINITY:
            return None
        edges = Edge(low, low != MINUS_INFINITY and not low_closed), Edge(high, high == INFINITY or high_closed)
        return cls((edges,)) if _order(*edges) < 0 else None

    @classmethod
    def everything(cls) -> RealSet:
        """All real numbers."""
        return cls(((Edge(MINUS_INFINITY, False), Edge(INFINITY, True)),))

    @classmethod
    def point(cls, node: Node) -> RealSet | None:
        """One number; ``None`` where it is no finite real constant."""
        return cls.interval(node, True, node, True) if node not in (INFINITY, MINUS_INFINITY) else None

    def both_ways(self) -> bool:
        """Whether it goes on without end in both directions: several such conditions hold together."""
        return bool(self.pieces) and self.pieces[0][0].node == MINUS_INFINITY and self.pieces[-1][1].node == INFINITY

    def union(self, other: RealSet) -> RealSet:
        """What is in either."""
        return self._where(other, lambda mine, others: mine or others)

    def intersection(self, other: RealSet) -> RealSet:
        """What is in both."""
        return self._where(other, lambda mine, others: mine and others)

    def without(self, other: RealSet) -> RealSet:
        """What is in this one alone."""
        return self._where(other, lambda mine, others: mine and not others)

    def same(self, other: RealSet) -> bool:
        """Whether both hold the same numbers."""
        return not self.without(other).pieces and not other.without(self).pieces

    def _where(self, other: RealSet, keep: Any) -> RealSet:
        edges = sorted({edge for piece in (*self.pieces, *other.pieces) for edge in piece}, key=cmp_to_key(_order))
        distinct = [edge for index, edge in enumerate(edges) if not index or _order(edges[index - 1], edge)]
        cells = [cell for cell in pairwise(distinct) if keep(self._covers(cell), other._covers(cell))]
        return RealSet(tuple(_joined(cells)))

    def _covers(self, cell: tuple[Edge, Edge]) -> bool:
        return any(_order(low, cell[0]) <= 0 and _order(cell[1], high) <= 0 for low, high in self.pieces)


def _joined(cells: Iterable[tuple[Edge, Edge]]) -> list[tuple[Edge, Edge]]:
    pieces: list[tuple[Edge, Edge]] = []
    for low, high in cells:
        if pieces and _order(pieces[-1][1], low) == 0:
            pieces[-1] = (pieces[-1][0], high)
        else:
            pieces.append((low, high))
    return pieces


def bounded(relation: str, bound: Node) -> RealSet | None:
    r"""The numbers ``x`` for which ``x < bound`` (or another relation) holds; ``None`` where the bound is no constant.

    Example:
        >>> from lit_sdpo.rewards.mathematics.formula import number
        >>> bounded("<", number(2)).same(RealSet.interval(MINUS_INFINITY, False, number(2), False))
        True
    """
    if relation in ("<", r"\le"):
        return RealSet.interval(MINUS_INFINITY, False, bound, relation == r"\le")
    if relation in (">", r"\ge"):
        return RealSet.interval(bound, relation == r"\ge", INFINITY, False)
    point = RealSet.point(bound)
    return None if point is None or relation != r"\ne" else RealSet.everything().without(point)
