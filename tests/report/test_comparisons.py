from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from lit_sdpo.functional import bootstrap_means, percentile_interval
from lit_sdpo.report.comparisons import (
    Comparison,
    Draws,
    Effect,
    combine,
    compare,
    effect,
    holm,
    levels,
    p_value,
    sign_flip,
    student_draws,
)
from lit_sdpo.report.measures import MEASURES, Measure
from tests.report.made_runs import flat, in_memory, study_of

ACCURACY = MEASURES["average_accuracy"]
NUMBERS = {("sdpo", 0): 4.0, ("sdpo", 1): 8.0, ("sdpo", 2): 6.0, ("grpo", 0): 2.0, ("grpo", 1): 2.0, ("grpo", 2): 2.0}


def table(numbers, **options) -> Measure:
    """A measure that looks its value up by method and seed."""
    return Measure("number", "number", "", 0, from_run=lambda run: numbers[run.method, run.seed], **options)


def pair(seeds: int = 3):
    return [[in_memory(method, seed) for seed in range(seeds)] for method in ("sdpo", "grpo")]


# ------------------------------------------------------------------------------------------------ independent oracles
@pytest.mark.parametrize("degrees", [1, 2, 4, 9])
def test_student_draws_are_the_quantiles_of_the_distribution(degrees):
    draws = student_draws(degrees, 2000)
    expected = scipy.stats.t.ppf([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975], degrees)
    found = np.quantile(draws.numpy(), [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975])
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-9)
    assert float(draws.sum()) == pytest.approx(0, abs=1e-9)
    assert abs(np.corrcoef(draws[:-1].clamp(-3, 3), draws[1:].clamp(-3, 3))[0, 1]) < 0.1  # in random order


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [-0.5, 1.0, 0.25, 0.75, 2.0]])
def test_without_prompts_interval_and_p_are_those_of_the_t_test(values):
    draws = combine(torch.tensor(values, dtype=torch.float64), None)
    test = scipy.stats.ttest_1samp(values, 0.0)
    low, high = percentile_interval(draws)
    expected = test.confidence_interval(0.95)
    width = expected.high - expected.low
    assert float(low) == pytest.approx(expected.low, abs=0.02 * width)
    assert float(high) == pytest.approx(expected.high, abs=0.02 * width)
    assert p_value(draws) == pytest.approx(test.pvalue, abs=0.01)


@pytest.mark.parametrize("values", [[1.0, -2.0], [0.5, 1.5, -0.25], [3.0, 1.0, 2.0, -1.0, 0.5, 0.25, 4.0, 1.0]])
def test_sign_flips_of_few_differences_are_exact(values):
    oracle = scipy.stats.permutation_test(
        (values, [0.0] * len(values)),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=False,
    )
    assert sign_flip(values) == pytest.approx(oracle.pvalue, abs=1e-12)


def test_sign_flips_of_many_differences_are_close_to_exact(monkeypatch):
    values = np.random.default_rng(0).normal(0.4, 1.0, 14).tolist()
    exact = sign_flip(values)
    monkeypatch.setattr("lit_sdpo.report.comparisons.ALL_FLIPS", 5)
    assert sign_flip(values) == pytest.approx(exact, abs=0.01)
    assert sign_flip(values) == sign_flip(values)


def test_nothing_to_flip_has_no_p():
    assert math.isnan(sign_flip([]))
    assert sign_flip([0.0, 0.0]) == 1.0


def closed_testing(p_values):
    """Holm's method as the closure of Bonferroni tests: the largest p of all intersections with a hypothesis."""
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    corrected = [math.nan] * len(p_values)
    for i in known:
        others = [j for j in known if j != i]
        subsets = itertools.chain.from_iterable(itertools.combinations(others, k) for k in range(len(known)))
        corrected[i] = max(min(1.0, (len(subset) + 1) * min(p_values[j] for j in (i, *subset))) for subset in subsets)
    return corrected


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_closure_of_bonferroni(seed):
    p_values = (np.random.default_rng(seed).random(6) ** 3).tolist()
    assert holm(p_values) == pytest.approx(closed_testing(p_values))
    p_values[2] = math.nan
    found = holm(p_values)
    assert found == pytest.approx(closed_testing(p_values), nan_ok=True)
    assert math.isnan(found[2])


# ------------------------------------------------------------------------------------------------------------ coverage
@pytest.mark.parametrize(
    ("seeds", "by_seed", "by_prompt", "by_both"),
    [(3, 0.1, 0.1, 0.3), (3, 0.0, 0.3, 0.3), (5, 0.1, 0.0, 0.1), (5, 0.05, 0.3, 0.3)],
)
def test_intervals_cover_the_truth(seeds, by_seed, by_prompt, by_both):
    generator = torch.Generator().manual_seed(seeds)
    runs, prompts, resamples, covered, rejected = 300, 48, 500, 0, 0
    for run in range(runs):
        noise = [torch.randn(n, m, generator=generator) for n, m in ((seeds, 1), (1, prompts), (seeds, prompts))]
        differences = (by_seed * noise[0] + by_prompt * noise[1] + by_both * noise[2]).double()
        drawn = bootstrap_means(differences.mean(0), resamples, seed=run)
        total = combine(differences.mean(1), drawn, resamples)
        low, high = percentile_interval(total)
        covered += bool(low <= 0 <= high)
        rejected += p_value(total) < 0.05
    assert 0.92 <= covered / runs <= 1.0  # 0.95 less 2.4 standard errors
    assert rejected / runs <= 0.08


def test_drawing_three_seeds_again_would_not_cover_it():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        seeds = torch.randn(3, generator=generator, dtype=torch.float64)
        drawn = seeds[torch.randint(3, (1000, 3), generator=generator)].mean(1)
        low, high = percentile_interval(drawn)
        covered += bool(low <= 0 <= high)
    assert covered / 400 < 0.85


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
