"""What is tried, and what is right: one configuration for each value of each option, and for each pair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.walk.contexts import Context, with_value
from tests.walk.exceptions import EITHER, MEANS_THE_SAME, NO_EFFECT
from tests.walk.options import is_refused, values_of
from tests.walk.pairs import other_value, pairs_of
from tests.walk.trial import Ended


@dataclass
class Input:
    """One configuration that is tried.

    Attributes:
        context: The run that it changes.
        name: What it changes.
        keys: The options; none for the run itself.
        config: The whole configuration.
        wrong: Whether it has to be refused.
    """

    context: Context
    name: str
    keys: tuple[str, ...]
    config: dict[str, Any]
    wrong: bool = False


def inputs(chosen: Iterable[Context]) -> Iterator[Input]:
    """Every value of every option, each in the first run that has the option; then the pairs."""
    seen: set[tuple[str, ...]] = set()
    for context in chosen:
        options = context.options()
        for option in options:
            if (option.key,) in seen:
                continue
            seen.add((option.key,))
            for value in values_of(option):
                if (option.key, repr(value)) not in MEANS_THE_SAME:
                    config = with_value(context.config, option.path, value)
                    name = f"{context.name}: {option.name} = {value!r}"
                    yield Input(context, name, (option.key,), config, is_refused(option, value))
        for one, other in pairs_of(options):
            values = other_value(one), other_value(other)
            if (one.key, other.key) in seen or None in values:
                continue
            seen.add((one.key, other.key))
            config = with_value(with_value(context.config, one.path, values[0]), other.path, values[1])
            name = f"{context.name}: {one.name} = {values[0]!r}, {other.name} = {values[1]!r}"
            yield Input(context, name, (one.key, other.key), config)


def shuffled(tried: Iterable[Input]) -> list[Input]:
    """In a random order that is the same each time, so that any beginning is a fair sample."""
    return sorted(tried, key=lambda each: hashlib.sha256(each.name.encode()).digest())


def judge(tried: Input, ended: Ended, results: dict[str, str]) -> str:
    """What is wrong with how an input ended; nothing if it is right.

    Args:
        tried: The input.
        ended: How it ended.
        results: Of the run without it.
    """
    if ended.code is None:
        return f"not ended after {ended.seconds:.0f} s"
    if ended.code != 0:
        return "" if ended.refused else f"exit {ended.code}: {ended.message}"
    if tried.wrong:
        return "exit 0, though the type hint has no place for it"
    if tried.name.endswith("= 1e-45"):  # the smallest number that float32 has: all it must do is no harm
        return ""
    if all(key in EITHER for key in tried.keys):
        return ""
    both = dict.fromkeys([*results, *ended.results])
    changed = [name for name in both if results.get(name) != ended.results.get(name)]
    if all(key in NO_EFFECT for key in tried.keys):
        return f"exit 0, and other than without it: {', '.join(changed[:4])}" if changed else ""
    return "" if changed else "exit 0 without an effect"
