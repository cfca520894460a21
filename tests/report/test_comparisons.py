from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from lit_sdpo.functional.pairs import holm
from lit_sdpo.report.comparisons import Comparison, Draws, Effect, compare, effect, levels
from lit_sdpo.report.measures import MEASURES, Measure
from tests.report.made_runs import flat, in_memory, study_of

ACCURACY = MEASURES["average_accuracy"]
NUMBERS = {("sdpo", 0): 4.0, ("sdpo", 1): 8.0, ("sdpo", 2): 6.0, ("grpo", 0): 2.0, ("grpo", 1): 2.0, ("grpo", 2): 2.0}


def table(numbers, **options) -> Measure:
    """A measure that looks its value up by method and seed."""
    return Measure("number", "number", "", 0, from_run=lambda run: numbers[run.method, run.seed], **options)


def pair(seeds: int = 3):
    return [[in_memory(method, seed) for seed in range(seeds)] for method in ("sdpo", "grpo")]


# ------------------------------------------------------------------------------------------------------------- effects
def test_an_effect_is_the_mean_difference_over_common_seeds():
    more, less = pair()
    found = effect(table(NUMBERS), more, less[:2])
    assert found.by_seed == {0: 2.0, 1: 6.0}
    assert found.value == 4.0
    assert found.null == 0.0
    assert found.p_flip == 0.5
    assert found.low < found.value < found.high


def test_a_ratio_is_a_geometric_mean():
    more, less = pair()
    found = effect(table(NUMBERS, ratio=True), more, less)
    assert found.by_seed == pytest.approx({0: 2.0, 1: 4.0, 2: 3.0})
    assert found.value == pytest.approx(24 ** (1 / 3))
    assert found.null == 1.0
    low, high = scipy.stats.ttest_1samp(np.log([2.0, 4.0, 3.0]), 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=0.06)
    level = effect(table(NUMBERS, ratio=True), more)
    assert level.value == pytest.approx(192 ** (1 / 3))
    assert level.null == 0.0
    assert math.isnan(level.p)


def test_two_seeds_far_apart_have_a_ratio_without_bound():
    far = NUMBERS | {("sdpo", 0): 1e-300, ("sdpo", 1): 1e300}
    found = effect(table(far, ratio=True), *[runs[:2] for runs in pair()])
    assert found.high == math.inf
    assert found.low == pytest.approx(0.0)


def test_what_is_missing_is_said():
    more, less = pair()
    assert effect(table(NUMBERS), more, []).missing == "no runs"
    assert effect(table(NUMBERS), more[:1], less[1:]).missing == "no seed that both have"
    unmeasured = effect(table(dict.fromkeys(NUMBERS, math.nan)), more, less)
    assert unmeasured.missing == "number was not measured"
    assert math.isnan(unmeasured.value)
    assert unmeasured.seeds == 0


def test_a_seed_without_a_value_is_left_out():
    more, less = pair()
    found = effect(table(NUMBERS | {("grpo", 1): math.nan}), more, less)
    assert found.by_seed == {0: 2.0, 2: 4.0}


def test_one_seed_has_an_interval_only_over_prompts():
    more, less = pair(1)
    assert math.isnan(effect(table(NUMBERS), more, less).low)
    assert math.isnan(effect(table(NUMBERS), more, less).p)
    assert math.isnan(effect(table(NUMBERS, ratio=True), more, less).high)
    scores = [[flat(0.0), flat(0.0)], [flat(0.0), flat(0.0)], [noisy(0.9, 0), noisy(0.9, 1)]]
    rows = [{"a": a, "b": b} for a, b in scores]
    found = effect(ACCURACY, [in_memory("sdpo", 0, rows)], [in_memory("grpo", 0, [rows[0]] * 3)])
    assert 0 < found.low < found.value < found.high


def noisy(rate: float, seed: int, prompts: int = 40) -> dict[str, list[float]]:
    draws = np.random.default_rng(seed).random((prompts, 4)) < rate
    return {f"p{i}": row.astype(float).tolist() for i, row in enumerate(draws)}


def test_methods_are_paired_by_prompt():
    """Every prompt gains the same: the difference is certain, though the scores are not."""
    shares = np.random.default_rng(0).random(40)
    base = {f"p{i}": [x * 0.8] for i, x in enumerate(shares)}
    better = {item: [x + 0.125] for item, (x,) in base.items()}
    runs = {
        name: [in_memory(name, seed, [{"a": last, "b": last}] * 3) for seed in range(3)]
        for name, last in (("sdpo", better), ("grpo", base))
    }
    found = effect(ACCURACY, runs["sdpo"], runs["grpo"])
    unseen = 1 - 0.05 ** (1 / 40)  # the rule of three: what 40 prompts may have missed
    assert (found.low, found.high) == pytest.approx((0.125 - unseen, 0.125 + unseen))
    assert found.p < 0.01
    shuffled = dict(zip(better, np.random.default_rng(1).permutation(list(better.values())).tolist(), strict=True))
    other = [in_memory("other", seed, [{"a": shuffled, "b": shuffled}] * 3) for seed in range(3)]
    unpaired = effect(ACCURACY, other, runs["grpo"])
    assert unpaired.high - unpaired.low > 0.1


def test_methods_of_another_order_of_stages_are_paired_by_prompt():
    """The very same scores of every task, whose columns stand in another order: no prompt differs."""
    scores = {"a": noisy(0.5, 0), "b": noisy(0.4, 1), "c": noisy(0.7, 2)}
    orders = {"forwards": ("a", "b", "c"), "backwards": ("c", "b", "a")}
    runs = {
        name: [in_memory(name, seed, [{task: scores[task] for task in order}] * 4, labels=order) for seed in range(3)]
        for name, order in orders.items()
    }
    found = effect(ACCURACY, runs["forwards"], runs["backwards"])
    draws = Draws()
    one, other = (draws.of(some[0], ACCURACY)[1] for some in runs.values())
    assert float((one - other).std()) < 1e-12 < 0.01 < float(one.std())
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.high - found.low < 0.2  # only what 40 prompts may have missed


def test_ends_are_possible_values():
    rows = [[{"a": flat(x), "b": flat(x)}] * 3 for x in (0.93, 0.97, 0.99)]
    runs = [in_memory("sdpo", seed, scores) for seed, scores in enumerate(rows)]
    found = effect(ACCURACY, runs)
    assert found.high == 1.0
    assert found.low > 0.8
    worst = [in_memory("grpo", seed, [{"a": flat(0.01 * seed), "b": flat(0.0)}] * 3) for seed in range(3)]
    assert effect(ACCURACY, runs, worst).high == 1.0
    percent = [in_memory("sdpo", seed, [{"a": flat(x), "b": flat(x)}] * 3) for seed, x in enumerate((93, 97, 99))]
    assert effect(ACCURACY, percent).high > 100  # another metric in the place of a score


def test_levels_that_are_never_negative_are_spread_like_divergences():
    """Of three seeds of lognormal values Student's interval holds the mean 83 times in 100."""
    generator, held = np.random.default_rng(0), 0
    for _ in range(300):
        values = np.exp(generator.standard_normal(3))
        numbers = {("sdpo", seed): x for seed, x in enumerate(values)}
        found = effect(table(numbers, possible=(0.0, math.inf)), pair()[0])
        assert 0 < found.low < found.value < found.high
        held += found.low <= math.exp(0.5) <= found.high
    assert held / 300 >= 0.91


def test_seeds_that_agree_exactly_have_no_interval():
    more, less = pair()
    found = effect(table(dict.fromkeys(NUMBERS, 1.0)), more, less)
    assert found.value == 0
    assert all(map(math.isnan, (found.low, found.high, found.p)))


def test_what_no_prompt_shows_may_still_be_there():
    rows = [{"a": flat(1.0, 64), "prior": flat(1.0, 64)}] * 2
    runs = [
        [in_memory(name, seed, rows, labels=["a"], probes=["prior"]) for seed in range(3)] for name in ("sdpo", "grpo")
    ]
    found = effect(MEASURES["prior_change"], *runs)
    assert found.value == 0.0
    assert (found.low, found.high) == pytest.approx((-4.57, 4.57), abs=0.01)
    assert found.p == 1.0


def test_prompts_vary_by_as_much_as_theory_says():
    """One seed: the standard error of the mean of two independent tasks."""
    rows = [{"a": noisy(0.5, 0), "b": noisy(0.5, 1)}] * 3
    found = effect(ACCURACY, [in_memory("sdpo", 0, rows)])
    means = [np.array([np.mean(x) for x in rows[0][task].values()]) for task in "ab"]
    error = math.sqrt(sum(x.var() / len(x) for x in means)) / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_the_same_runs_give_the_same_numbers():
    rows = [{"a": noisy(0.5, seed), "b": noisy(0.4, seed)} for seed in range(3)]
    runs = [in_memory("sdpo", seed, rows) for seed in range(3)]
    assert effect(ACCURACY, runs) == effect(ACCURACY, runs, draws=Draws())


# --------------------------------------------------------------------------------------------------------------- tables
def study():
    scores = {"sdpo": 0.5, "grpo": 0.75, "sft": 0.25}
    generator = np.random.default_rng(0)
    return study_of(
        *(
            in_memory(name, seed, [{"a": flat(x), "b": flat(x)}] * 3)
            for name, level in scores.items()
            for seed, x in enumerate(level + 0.01 * generator.standard_normal(4))
        )
    )


def test_all_pairs_are_compared_and_corrected():
    found = [each for each in compare(study()) if each.measure.name == "average_accuracy"]
    assert [(each.more, each.less) for each in found] == [("sdpo", "grpo"), ("sdpo", "sft"), ("grpo", "sft")]
    assert [each.verdict for each in found] == ["grpo has more", "sdpo has more", "grpo has more"]
    assert [each.p_holm for each in found] == pytest.approx(holm([each.effect.p for each in found]))
    assert all(each.p_holm > each.effect.p for each in found[:2])
    assert all(each.effect.p_flip == 0.125 for each in found)


def test_measures_that_nobody_has_are_left_out():
    names = {each.measure.name for each in compare(study())}
    assert "average_accuracy" in names
    assert "relative_norm" not in names
    assert set(levels(study())) == names


@pytest.mark.parametrize(
    ("found", "p_holm", "expected"),
    [
        (Effect(missing="no runs"), math.nan, "not measured: no runs"),
        (Effect(1.0, 0.9, 1.1, 0.001, by_seed={0: 1.0}), 0.001, "undecided: 1 seed"),
        (Effect(1.0, 0.9, 1.1, 0.001, by_seed={0: 1.0, 1: 1.0}), 0.001, "undecided: 2 seeds"),
        (Effect(1.0, 0.9, 1.1, 0.001, by_seed={0: 1.0, 1: 1.0, 2: 1.0}), 0.06, "undecided"),
        (Effect(1.0, 0.9, 1.1, 0.001, by_seed={0: 1.0, 1: 1.0, 2: 1.0}), 0.04, "x has more"),
        (Effect(0.5, 0.4, 0.6, 0.001, by_seed={0: 1.0, 1: 1.0, 2: 1.0}, null=1.0), 0.04, "y has more"),
    ],
)
def test_verdicts_need_seeds_and_a_corrected_p(found, p_holm, expected):
    assert Comparison(ACCURACY, "x", "y", found, p_holm).verdict == expected
