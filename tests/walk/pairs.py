"""Pairs of options that a check of the package names together, from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import lit_sdpo
from tests.walk.options import Option, members, objects, same


def pairs_of(options: Sequence[Option]) -> Iterator[tuple[Option, Option]]:
    """Pairs of options of one run that a condition with a refusal behind it names."""
    by_name: dict[str, list[Option]] = {}
    for option in options:
        by_name.setdefault(str(option.path[-1]), []).append(option)
    found = {pair for names in _named_together() for pair in combinations(sorted(names & by_name.keys()), 2)}
    for one, other in sorted(found):
        # Names that several objects share say nothing about which of them is meant.
        if len(by_name[one]) == len(by_name[other]) == 1 and not _inside(by_name[one][0], by_name[other][0]):
            yield by_name[one][0], by_name[other][0]


def other_value(option: Option) -> Any:
    """A legal value that the option does not have; ``None`` where its hint tells none."""
    for part in members(option.hint):
        base = option.base
        candidates: tuple[Any, ...] = ()
        if get_origin(part) is Literal:
            candidates = get_args(part)
        elif part is bool:
            candidates = (not base,)
        elif part is int:
            candidates = (2, 3)
        elif part is float:
            candidates = (0.5, 0.25)
        elif objects(part) and str(part).startswith("<class 'lit_sdpo"):
            candidates = ({},)
        for value in candidates:
            if not same(value, base):
                return value
    return None


@cache
def _named_together() -> frozenset[frozenset[str]]:
    found = set()
    for path in sorted(Path(lit_sdpo.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.If):
                found |= {
                    frozenset(_names(node.test) | _keys(each)) for each in node.body if isinstance(each, ast.Raise)
                }
    return frozenset(found)


def _names(test: ast.expr) -> set[str]:
    """Variables and attributes of a condition."""
    named = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    return named | {node.attr for node in ast.walk(test) if isinstance(node, ast.Attribute)}


def _keys(refusal: ast.Raise) -> set[str]:
    """Last parts of the dotted keys that a refusal names."""
    texts = [node.value for node in ast.walk(refusal) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {name for text in texts for name in re.findall(r"\b[a-z_]+(?:\.[a-z_]+)*\.([a-z_0-9]+)\b", text)}


def _inside(one: Option, other: Option) -> bool:
    """Whether one is a part of the other."""
    length = min(len(one.path), len(other.path))
    return one.path[:length] == other.path[:length]
