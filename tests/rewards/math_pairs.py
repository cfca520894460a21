"""The pairs of ``math_pairs.txt``."""

from __future__ import annotations

from pathlib import Path


def read_table() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The pairs that are equal and those that differ."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split("\n")[1:]
    equal = [tuple(line.split(" == ")) for line in lines if " == " in line]
    different = [tuple(line.split(" =/= ")) for line in lines if " =/= " in line]
    return equal, different


EQUAL, DIFFERENT = read_table()
