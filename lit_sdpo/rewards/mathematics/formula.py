"""Formulas as trees."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Node:
    """A formula: an operation and what it works on.

    ``num`` holds a Fraction, ``var`` and ``const`` a name; ``add``, ``mul``, ``div``, ``pow``, ``neg``, ``degrees``,
    ``factorial`` and functions hold formulas.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: Fraction | str = ""

    def names(self) -> frozenset[str]:
        """The variables in it."""
        if self.op == "var":
            return frozenset({str(self.value)})
        return frozenset().union(*(part.names() for part in self.args))

    def has(self, *constants: str) -> bool:
        """Whether one of the constants occurs."""
        return (self.op == "const" and self.value in constants) or any(part.has(*constants) for part in self.args)

    def size(self) -> int:
        """Number of operations."""
        return 1 + sum(part.size() for part in self.args)


def number(value: Fraction | int) -> Node:
    """A formula that is one number."""
    return Node("num", value=Fraction(value))
