from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_sdpo.data.shares import blocked, interleaved


@st.composite
def shares(draw):
    weights = draw(st.lists(st.integers(1, 12), min_size=2, max_size=8))
    return [Fraction(weight, sum(weights)) for weight in weights]


@given(shares(), st.integers(1, 20), st.integers(1, 25))
def test_windows_hold_their_quotas_and_what_is_rounded_evens_out(given_shares, prompts, windows):
    order = interleaved(given_shares, prompts, windows)
    assert len(order) == prompts * windows
    for window in range(windows):
        part, before = order[window * prompts : (window + 1) * prompts], order[: (window + 1) * prompts]
        for k, share in enumerate(given_shares):
            assert part.count(k) in (math.floor(prompts * share), math.ceil(prompts * share))
            assert abs(before.count(k) - (window + 1) * prompts * share) < 1


@given(shares(), st.integers(1, 200))
def test_blocks_follow_each_other_at_counts_by_largest_remainder(given_shares, total):
    order = blocked(given_shares, total)
    assert order == sorted(order)
    assert len(order) == total
    rests = []
    for k, share in enumerate(given_shares):
        up = order.count(k) - math.floor(total * share)
        assert up in (0, 1)
        rests.append((total * share % 1, up))
    assert max((rest for rest, up in rests if not up), default=0) <= min((rest for rest, up in rests if up), default=1)


@pytest.mark.parametrize("prompts", [2, 3, 4, 6])
def test_both_halves_of_a_window_hold_both_of_two_equal_parts(prompts):
    order = interleaved([Fraction(1, 2)] * 2, prompts, 1)
    assert set(order[: (prompts + 1) // 2]) | set(order[prompts // 2 :]) == {0, 1}
    assert all(a != b for a, b in pairwise(order))
