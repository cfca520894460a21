"""Rows that are decoded together, where not all of them may be."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lit_sdpo.rollouts.engines.base import Completions


def blocks(prompts: int, generations: int, max_rows: int | None) -> Iterator[tuple[range, range]]:
    """Prompts and generations of each block, of at most ``max_rows`` rows and of nearly equal sizes.

    All completions of a prompt are in one block, unless they alone exceed ``max_rows``.

    Example:
        >>> list(blocks(prompts=5, generations=2, max_rows=8))
        [(range(0, 3), range(0, 2)), (range(3, 5), range(0, 2))]
        >>> list(blocks(prompts=1, generations=5, max_rows=3))
        [(range(0, 1), range(0, 3)), (range(0, 1), range(3, 5))]
    """
    if not prompts * generations:
        return
    most = max_rows or prompts * generations
    for some in _cut(prompts, max(1, most // generations)):
        for part in _cut(generations, most):
            yield some, part


def rows_of(some: range, part: range, generations: int, device: torch.device) -> Tensor:
    """Rows of a block, ``p * generations + g``."""
    first = torch.arange(some.start, some.stop, device=device)[:, None] * generations
    return (first + torch.arange(part.start, part.stop, device=device)).flatten()


def at_once(prompts: int, generations: int, max_rows: int | None) -> tuple[int, int]:
    """Prompts and rows of the largest block."""
    sizes = [(len(some), len(some) * len(part)) for some, part in blocks(prompts, generations, max_rows)]
    return max(sizes, key=lambda size: size[1], default=(0, 0))


def join(rows: list[Tensor], found: list[Completions], pad_id: int) -> Completions:
    """The completions of all blocks, each row in its place."""
    return Completions.cat(found, pad_id).select(torch.cat(rows).argsort())


def _cut(count: int, most: int) -> Iterator[range]:
    """As few ranges as hold ``most`` each, of nearly equal lengths."""
    number = -(-count // most)
    bounds = [-(-count * i // number) for i in range(number + 1)]
    yield from map(range, bounds[:-1], bounds[1:])
