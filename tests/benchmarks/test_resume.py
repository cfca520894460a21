"""The benchmark of checkpoints measures both sides on the same run, and both go on with the same weights."""

from __future__ import annotations

import math

import pytest

from benchmarks import resume


def test_both_sides_at_the_smallest_size(tmp_path):
    found = {}
    for side in resume.SIDES:
        found[side] = resume.measure(side, tmp_path / side, megabytes=2, steps=2)
        assert all(math.isfinite(value) for key, value in found[side].items() if key != "side")
        assert found[side]["save s"] > 0 < found[side]["load s"]
    stock, ours = found.values()
    assert ours["weights"] == stock["weights"]
    assert ours["file MiB"] == pytest.approx(stock["file MiB"], rel=0.05)
    assert ours["file MiB"] > 6
