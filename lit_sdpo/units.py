"""Amounts of memory for people."""

from __future__ import annotations

GIB = 2**30


def size(count: float) -> str:
    """Bytes in a unit that fits.

    Example:
        >>> size(3 * 2**20), size(5.25 * 2**30)
        ('3.0 MiB', '5.2 GiB')
    """
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"
