from __future__ import annotations

import numpy as np
import pytest

from benchmarks.headroom import area, curve, lost
from benchmarks.made_runs import made_run


def run(seed, *rows, labels):
    names = ("a", "b", "prior")
    scores = [dict(zip(names, map(np.atleast_2d, row), strict=True)) for row in rows]
    return made_run("m", seed, scores, labels, ("prior",))


def test_what_is_lost_is_counted_from_a_stages_end_to_the_tasks_next_stage():
    rows = [(0.2, 0.1, 0.9), (0.8, 0.1, 0.9), (0.5, 0.6, 0.7), (0.9, 0.4, 0.8)]
    found = curve([run(0, *rows, labels=("a", "b", "a"))])
    assert found.ends == {"a": [10, 30], "b": [20]}
    assert lost(found) == pytest.approx({"a": 30.0, "b": 20.0, "prior": 20.0})


def test_a_curve_is_the_mean_of_the_seeds_and_its_area_a_mean_over_steps():
    one = run(0, (0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (0.5, 1.0, 1.0), labels=("a", "b"))
    other = run(1, (0.0, 0.0, 1.0), (0.5, 0.0, 1.0), (1.0, 0.0, 1.0), labels=("a", "b"))
    found = curve([one, other])
    # Averages 0, .375, .625 of both tasks: trapezoids (.1875 + .5) / 2.
    assert area(found) == pytest.approx(34.375)
    assert lost(found) == pytest.approx({"a": 0.0, "b": 0.0, "prior": 0.0})
