"""JSON that says every value once, with numbers that a double can hold."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def decoder() -> json.JSONDecoder:
    """A decoder that refuses keys that stand twice, numbers beyond a double, ``NaN`` and ``Infinity``.

    Nobody can say which of its two values a key that stands twice has, and numbers that overflow would all be equal.
    Its errors are ValueErrors.
    """
    return json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse)


def loads(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: The text is no such JSON; the message says why.

    Example:
        >>> loads('{"n": 1, "n": 2}')
        Traceback (most recent call last):
            ...
        ValueError: the key 'n' stands twice
    """
    try:
        return decoder().decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} stands twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number) or (number == 0 and text.lower().partition("e")[0].strip("-0.")):
        raise ValueError(f"the number {text[:40]} is beyond what a double can hold")
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
