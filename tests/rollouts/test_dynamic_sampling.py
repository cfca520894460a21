from __future__ import annotations

import pytest
import torch

from lit_sdpo.rollouts.dynamic_sampling import uneven_groups, with_uneven_groups
from tests.rollouts.test_types import rollouts

NAN = torch.nan


def scored(rewards, first=0):
    made = rollouts([1 + n % 3 for n in range(2 * len(rewards))], first=first)
    made.rewards = torch.tensor(rewards).flatten()
    return made


def names(some):
    return [row.id for row in some.rows]


@pytest.mark.parametrize(
    ("rewards", "uneven"),
    [
        ([[0.0, 1.0], [1.0, 1.0], [0.5, 0.0]], [0, 2]),
        ([[0.0, 0.0], [1.0, 1.0]], []),
        ([[NAN, 1.0], [NAN, NAN], [0.0, 1.0]], [2]),
    ],
)
def test_uneven_groups_have_two_different_rewards(rewards, uneven):
    assert uneven_groups(scored(rewards)) == uneven


FLAT, UNEVEN = [1.0, 1.0], [1.0, 0.0]


@pytest.mark.parametrize(
    ("own", "more", "expected"),
    [
        # own p0..p2, more p3..p5
        ([FLAT, UNEVEN, FLAT], [UNEVEN, UNEVEN, UNEVEN], ["p1", "p3", "p4"]),
        ([FLAT, UNEVEN, FLAT], [FLAT, FLAT, UNEVEN], ["p1", "p2", "p5"]),
        ([FLAT, UNEVEN, FLAT], [FLAT, FLAT, FLAT], ["p0", "p1", "p2"]),
        ([UNEVEN, UNEVEN, UNEVEN], [UNEVEN, UNEVEN, UNEVEN], ["p0", "p1", "p2"]),
        ([FLAT, FLAT, FLAT], [UNEVEN, FLAT, UNEVEN], ["p2", "p3", "p5"]),
    ],
)
def test_flat_groups_make_room_for_uneven_ones(own, more, expected):
    before, spare = scored(own), scored(more, first=6)
    after = with_uneven_groups(before, spare)
    assert names(after) == expected
    assert len(after) == len(before) == len(after.seeds)
    known = {f"p{n}": row for n, row in enumerate([*own, *more])}
    assert after.rewards.view(-1, 2).tolist() == [known[name] for name in expected]
    assert [text.split()[1] for text in after.texts] == [str(2 * int(n[1:]) + k) for n in expected for k in (0, 1)]
