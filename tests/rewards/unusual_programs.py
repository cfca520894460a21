"""Reads ``unusual_programs.txt``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Unusual(NamedTuple):
    """A test with a right and a wrong program.

    Attributes:
        test: Statements with assertions.
        right: A program that passes where everything runs in one process.
        wrong: A program that does not.
    """

    test: str
    right: str
    wrong: str


def read() -> dict[str, Unusual]:
    """The entries by name."""
    entries = {}
    for part in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split("==== ")[1:]:
        name, _, rest = part.partition("\n")
        entries[name] = Unusual(*re.split(r"^---- (?:test|right|wrong)\n", rest, flags=re.MULTILINE)[1:])
    return entries
