"""Which groups of a step are worth training on."""

from __future__ import annotations

from lit_sdpo.rollouts.types import Rollouts


def uneven_groups(rollouts: Rollouts) -> list[int]:
    """Prompts whose completions did not all get the same reward; abstentions aside."""
    return (~rollouts.flat).nonzero()[:, 0].tolist()


def with_uneven_groups(rollouts: Rollouts, more: Rollouts) -> Rollouts:
    """Replace flat groups by uneven ones of ``more``, as far as they go; the number of groups stays."""
    uneven = uneven_groups(rollouts)
    flat = [p for p in range(len(rollouts.rows)) if p not in set(uneven)]
    found = uneven_groups(more)[: len(flat)]
    if not found:
        return rollouts
    return Rollouts.cat([rollouts.take([*uneven, *flat[len(found) :]]), more.take(found)])
