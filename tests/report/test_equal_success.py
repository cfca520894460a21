from __future__ import annotations

import pytest

from lit_sdpo.report.equal_success import CURVES, all_at_equal_success, at_equal_success
from tests.report.made_runs import in_memory, study_of

DRIFT = "drift/parameters/relative_norm"


def learner(method: str, seed: int, rate: float, drift: float, lost: float = 0.0, every: int = 5):
    """Reward rises by ``rate`` a step up to 0.9; drift grows by ``drift`` a step; another task loses ``lost``."""
    steps = range(0, 101, every)
    tags = {
        "rollout/reward": [(s, min(0.9, 0.3 + rate * s)) for s in range(100)],
        DRIFT: [(s, drift * s) for s in steps if s],
        "val/a/accuracy": [(s, 0.5) for s in steps],
        "val/b/accuracy": [(s, 0.8 - lost * s) for s in steps],
    }
    run = in_memory(method, seed, tags=tags, labels=("a", "b"))
    run.matrix.rows[1] = type(run.matrix.rows[1])(1, "a", 100)
    return run


def test_each_counts_when_it_gets_there():
    """Twice the rate, three times the drift a step: at equal success the ratio is 1.5, at equal steps it is 3."""
    fast = [learner("fast", seed, rate=0.02, drift=0.003, every=1) for seed in range(3)]
    slow = [learner("slow", seed, rate=0.01, drift=0.001, every=1) for seed in range(3)]
    found = at_equal_success("relative_norm", fast, slow, tolerance=0.01)
    first, second = found.steps[0]
    assert (first, second) == (34, 63)  # the mean of five steps before reaches .89, .01 below the best of both
    assert found.effect.value == pytest.approx(3 * 34 / 63)
    assert found.reward == pytest.approx(0.89, abs=0.01)
    assert (found.more, found.less) == ("fast", "slow")
    assert not found.unmatched


def test_losses_are_those_on_other_tasks():
    more = [learner("more", seed, 0.02, 0.001, lost=0.002) for seed in range(3)]
    less = [learner("less", seed, 0.02, 0.001, lost=0.001) for seed in range(3)]
    found = at_equal_success("lost", more, less)
    step, _ = found.steps[0]
    assert found.effect.value == pytest.approx(100 * 0.001 * step)


def test_measurements_at_the_end_alone_match_only_equals():
    good = [learner("good", seed, 0.02, 0.003, every=100) for seed in range(3)]
    equal = [learner("equal", seed, 0.01, 0.001, every=100) for seed in range(3)]
    poor = [learner("poor", seed, 0.001, 0.001, every=100) for seed in range(3)]
    assert at_equal_success("relative_norm", good, equal).steps == dict.fromkeys(range(3), (100, 100))
    found = at_equal_success("relative_norm", good, poor)
    assert found.effect.missing == "no measurement at rewards within 0.05 of each other"
    assert set(found.unmatched) == {0, 1, 2}


def test_what_was_not_measured_is_said():
    good = learner("good", 0, 0.02, 0.003)
    bare = in_memory("bare", 0)
    found = at_equal_success("relative_norm", [good], [bare])
    assert found.effect.missing == "training rewards or measurements of the first stage are missing"
    assert at_equal_success("relative_norm", [good], []).effect.missing == "no seed that both have"


def test_all_pairs_in_all_curves():
    study = study_of(learner("x", 0, 0.02, 0.003), learner("y", 0, 0.01, 0.001), learner("z", 0, 0.01, 0.001))
    found = all_at_equal_success(study)
    assert len(found) == 3 * len(CURVES)
    assert {(each.more, each.less) for each in found} == {("x", "y"), ("x", "z"), ("y", "z")}
