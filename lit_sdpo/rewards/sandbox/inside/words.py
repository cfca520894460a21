"""Values in words, for feedback."""

from __future__ import annotations

import reprlib
from typing import Any

from .mirrors import Mirror, is_mirror, plain_content

_SHOWN = 200


def article(name: str) -> str:
    """The name with its article.

    Example:
        >>> article("Money"), article("Item")
        ('a Money', 'an Item')
    """
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


class _Short(reprlib.Repr):
    """Writes values short, and never asks the program how."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = self.maxfrozenset = 20
        self.maxstring = self.maxother = self.maxlong = _SHOWN

    def repr1(self, x: Any, level: int) -> str:
        """Stand-ins by the name of their class, with what they hold."""
        if isinstance(x, Mirror):
            return f"<{x.__name__}>"
        if not is_mirror(x):
            return super().repr1(x, level)
        content = plain_content(x)
        return f"<{type(x).__name__}>" if content is None else f"{type(x).__name__}({super().repr1(content, level)})"


_short = _Short()


def shown(value: Any) -> str:
    """A value in words, cut short."""
    try:
        text = _short.repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
