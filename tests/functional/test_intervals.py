from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from lit_sdpo.functional import (
    difference_interval,
    mean_interval,
    mean_with_interval,
    ratio_interval,
    student_t_quantile,
    sum_of_intervals,
    wilson_interval,
)


def scores(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(generator, kind, shape):
    """Draws and their true mean."""
    if kind == "normal":
        return generator.normal(10, 1, shape), 10.0
    if isinstance(kind, tuple):
        name, size = kind
        if name == "share":
            return generator.binomial(4, size, shape) / 4, size
        return np.exp(size * generator.standard_normal(shape)), math.exp(size * size / 2)
    raise AssertionError(kind)


def covered(interval, rows, truth):
    found = [interval(torch.from_numpy(row)) for row in rows]
    return np.mean([low <= truth <= high for low, high, _ in found])


# -------------------------------------------------------------------------------------------------- a mean of scores
@pytest.mark.parametrize(("share", "n"), [(0.0, 10), (0.3, 10), (1.0, 200)])
def test_wilson_against_scipy(share, n):
    expected = scipy.stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
    assert wilson_interval(share, n)[:2] == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_scores_of_one_sample_have_wilsons_interval_with_students_quantile():
    values = torch.tensor([1.0] * 12 + [0.0] * 8)
    z, n = scipy.stats.t.ppf(0.975, 19), 19  # the variance that Wilson knows is estimated with n - 1
    low, high, method = mean_interval(values)
    assert method == "wilson"
    for end in (low, high):  # the score interval's ends solve (share - p)^2 = z^2 p (1 - p) / n
        assert (0.6 - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, rel=0.01)


def test_scores_of_many_samples_are_known_better():
    one, many = torch.tensor([1.0, 0.0] * 8), torch.tensor([0.75, 0.25] * 8)
    wide, narrow = (high - low for low, high, _ in map(mean_interval, (one, many)))
    assert narrow < 0.6 * wide
    t = scipy.stats.ttest_1samp(many.numpy(), 0).confidence_interval()
    assert narrow == pytest.approx(t.high - t.low, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_scores_that_are_all_alike_are_as_uncertain_as_single_ones(value):
    low, high, method = mean_interval(torch.full((20,), value))
    assert method == "wilson"
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.15


def test_other_values_have_students_interval_or_none():
    values = 10 * scores(12)
    expected = scipy.stats.ttest_1samp(values.numpy(), 0).confidence_interval()
    low, high, method = mean_interval(values)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-3)
    assert method == "t"
    assert mean_interval(torch.full((5,), 7.0)).method == "no spread"
    assert math.isnan(mean_interval(torch.full((5,), 7.0)).low)
    assert mean_interval(values[:0]).method == "none"


@pytest.mark.parametrize("n", [8, 32])
@pytest.mark.parametrize("kind", [("share", 0.1), ("share", 0.5), ("share", 0.9)])
def test_scores_are_covered(n, kind):
    rows, truth = drawn(np.random.default_rng(n), kind, (1000, n))
    assert 0.93 <= covered(mean_interval, rows, truth) <= 0.99


# ---------------------------------------------------------------------------------------------------- paired changes
def test_changes_of_any_numbers_have_students_interval():
    before, after = 5 * scores(15), 9 * scores(15, seed=1)
    expected = scipy.stats.ttest_rel(after.numpy(), before.numpy()).confidence_interval()
    low, high, method = difference_interval(before, after)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-3)
    assert method == "t"
    assert difference_interval(before, before + 1).method == "no spread"


def newcombe_by_hand(lost, won, n):
    """Wilson's interval of either share, put together with the correlation of two cells of a multinomial."""
    p, q, z = won / n, lost / n, scipy.stats.t.ppf(0.975, n - 1)

    def wilson(share, m):
        centre, half = share + z * z / (2 * m), z * math.sqrt(share * (1 - share) / m + z * z / (4 * m * m))
        return (centre - half) / (1 + z * z / m), (centre + half) / (1 + z * z / m)

    size = {True: n - 1, False: n}  # a share that varies has the variance of n - 1
    (a, b), (c, d) = wilson(p, size[won > 0]), wilson(q, size[lost > 0])
    r = -math.sqrt(p * q / ((1 - p) * (1 - q)))

    def reach(x, y):
        return math.sqrt(x * x + y * y - 2 * r * x * y)

    return p - q - reach(p - a, d - q), p - q + reach(b - p, q - c)


@pytest.mark.parametrize(("lost", "won", "n"), [(1, 0, 32), (5, 2, 20), (3, 0, 10)])
def test_few_changes_have_newcombes_interval(lost, won, n):
    before = torch.tensor([1.0] * lost + [0.0] * won + [1.0] * (n - lost - won))
    after = torch.tensor([0.0] * lost + [1.0] * won + [1.0] * (n - lost - won))
    t = scipy.stats.ttest_rel(after.numpy(), before.numpy()).confidence_interval()
    low, high = newcombe_by_hand(lost, won, n)
    found = difference_interval(before, after)
    assert found[:2] == pytest.approx((min(low, t.low), max(high, t.high)), abs=2e-3)
    assert found.method == "newcombe"


@pytest.mark.parametrize(("n", "lost"), [(8, 0.1), (32, 0.1), (32, 0.02), (64, 0.02), (64, 0.3)])
def test_what_all_prompts_had_and_some_lose_is_covered(n, lost):
    """Student's interval alone would hold it 84 times in 100 at 32 prompts of which a tenth is lost."""
    generator = np.random.default_rng(n)
    rows = (generator.random((1000, n)) < lost).astype(float)
    assert covered(lambda row: difference_interval(torch.ones(n), 1 - row), rows, -lost) >= 0.93


@pytest.mark.parametrize("n", [4, 8, 32])
def test_changes_between_noisy_scores_are_covered(n):
    generator = np.random.default_rng(n)
    before, after = (generator.binomial(4, p, (1000, n)) / 4 for p in (0.5, 0.7))
    rows = np.stack([before, after], 1)
    assert covered(lambda row: difference_interval(*row), rows, 0.2) >= 0.93


def test_no_change_of_few_prompts_is_no_proof():
    got = difference_interval(torch.ones(20), torch.ones(20))
    assert got.method == "rule of three"
    assert (got.low, got.high) == pytest.approx((-(1 - 0.05**0.05), 1 - 0.05**0.05))
    assert math.isnan(difference_interval(torch.ones(0), torch.ones(0)).low)
    with pytest.raises(ValueError, match="same prompts"):
        difference_interval(torch.ones(3), torch.ones(2))


@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (1.0, 0.0)])
def test_changes_stay_possible(before, after):
    most = torch.full((5,), before), torch.full((5,), after)
    low, high, _ = difference_interval(*most)
    assert -1 <= low <= after - before <= high <= 1
    most[1][0] = before
    low, high, _ = difference_interval(*most)
    assert -1 <= low <= high <= 1


# ------------------------------------------------------------------------------------------ values that are positive
@pytest.mark.parametrize("n", [8, 32])
@pytest.mark.parametrize("kind", ["normal", ("lognormal", 0.5), ("lognormal", 1.0)])
@pytest.mark.parametrize("lengths", [False, True])
def test_ratios_are_covered(n, kind, lengths):
    generator = np.random.default_rng(n)
    rows, truth = drawn(generator, kind, (1000, n))
    sizes = np.exp(0.3 * generator.standard_normal((1000, n))) if lengths else np.ones((1000, n))
    both = np.stack([rows * sizes, sizes], 1)
    assert 0.93 <= covered(lambda row: ratio_interval(*row), both, truth) <= 0.985


def test_many_values_have_students_interval():
    values = torch.from_numpy(np.random.default_rng(0).gamma(20, 1, 3000))
    low, high, _ = ratio_interval(values)
    expected = scipy.stats.ttest_1samp(values.numpy(), 0).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=2e-3)


def test_values_near_zero_do_not_spread_it_without_end():
    """Half of the prompts have not moved at all, which says nothing about those that have."""
    values = torch.tensor([1e-9, 0.0, 1e-12, 0.0, 1.0, 1.2, 0.8, 1.1])
    low, high, _ = ratio_interval(values)
    assert 0 < low < 0.51 < high < 20


def test_ratios_that_do_not_vary_have_no_interval():
    lengths = torch.tensor([1.0, 2.0, 3.0])
    for pair in ((2 * lengths, lengths), (torch.zeros(3),), (torch.zeros(3), lengths)):
        assert ratio_interval(*pair).method == "no spread"
    assert ratio_interval(lengths, torch.zeros(3)).method == "none"
    assert ratio_interval(torch.tensor([1.0, math.inf])).method == "none"


def test_prompts_without_a_denominator_do_not_count():
    values, lengths = torch.tensor([1.0, 2.0, 4.0, 99.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert ratio_interval(values, lengths) == ratio_interval(values[:3])


def test_a_sum_of_normal_numbers_has_the_interval_of_its_error():
    ends = [(1 - 3.0, 1 + 3.0), (5 - 4.0, 5 + 4.0)]
    assert sum_of_intervals([1.0, 5.0], ends) == pytest.approx((1.0, 11.0))
    assert all(map(math.isnan, sum_of_intervals([1.0, 5.0], [ends[0], (math.nan, math.nan)])))


# ----------------------------------------------------------------------------------------------------------- Student
@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 10, 27, 200])
def test_students_t_against_scipy(degrees):
    assert student_t_quantile(0.975, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=3e-3)


def test_the_interval_over_layers_is_scipys():
    values = scores(28)
    expected = scipy.stats.ttest_1samp(values.numpy(), 0).confidence_interval()
    mean, low, high = mean_with_interval(values)
    assert mean == pytest.approx(values.mean().item())
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-3)
    assert all(map(math.isnan, mean_with_interval(torch.ones(4))[1:]))
