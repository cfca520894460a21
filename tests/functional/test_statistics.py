from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from lit_sdpo.functional import (
    bootstrap_means,
    difference_interval,
    mcnemar,
    mean_interval,
    mean_with_interval,
    pass_at_k,
    percentile_interval,
    smallest_detectable_change,
    student_t_quantile,
    wilson_interval,
)


def scores(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_bootstrap_is_that_of_scipy():
    values = scores(80)
    got = mean_interval(values, resamples=20_000)
    expected = scipy.stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert got.method == "bootstrap"
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_columns_are_resampled_together():
    values = torch.stack([scores(50), 1 - scores(50)], 1)
    draws = bootstrap_means(values)
    assert draws.shape == (2000, 2)
    torch.testing.assert_close(draws.sum(1), torch.ones(2000, dtype=torch.float64))
    torch.testing.assert_close(bootstrap_means(values[:, 0]), draws[:, 0])
    assert not torch.equal(bootstrap_means(values, seed=1), draws)
    low, high = percentile_interval(torch.tensor([[0.0, math.nan], [1.0, 1.0]]))
    assert low.tolist() == pytest.approx([0.025, math.nan], nan_ok=True)
    assert high.tolist() == pytest.approx([0.975, math.nan], nan_ok=True)


@pytest.mark.parametrize(("share", "n"), [(0.0, 10), (0.3, 10), (1.0, 200)])
def test_wilson_against_scipy(share, n):
    expected = scipy.stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
    assert wilson_interval(share, n)[:2] == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "method"),
    [(torch.ones(100), "wilson"), (torch.arange(20) / 20, "wilson"), (torch.arange(20.0), "bootstrap")],
)
def test_few_prompts_or_all_the_same(values, method):
    assert mean_interval(values).method == method
    assert math.isnan(mean_interval(values[:0]).low)


def test_a_paired_interval_is_narrower_than_an_unpaired_one():
    before = (scores(200) > 0.5).float()
    after = torch.where(scores(200, seed=1) < 0.1, 1 - before, before)
    got = difference_interval(before, after)
    expected = (after - before).mean().item(), (after - before).std().item() / math.sqrt(200)
    assert (got.low + got.high) / 2 == pytest.approx(expected[0], abs=0.003)
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * expected[1], rel=0.1)
    with pytest.raises(ValueError, match="same prompts"):
        difference_interval(before, after[1:])


def test_no_change_of_few_prompts_is_no_proof():
    got = difference_interval(torch.ones(20), torch.ones(20))
    assert got.method == "rule of three"
    assert (got.low, got.high) == pytest.approx((-(1 - 0.05**0.05), 1 - 0.05**0.05))
    assert math.isnan(difference_interval(torch.ones(0), torch.ones(0)).low)


def test_intervals_cover_what_they_promise():
    """Of paired differences with a true mean of 0.2: 95 % of the intervals hold it, to the noise of 300 trials."""
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(300):
        before = (torch.rand(100, generator=generator) < 0.4).float()
        after = (torch.rand(100, generator=generator) < 0.6).float()
        low, high, _ = difference_interval(before, after, resamples=500)
        hits += low <= 0.2 <= high
    assert 0.91 <= hits / 300 <= 0.985


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (5, 5), (9, 1), (0, 6), (30, 12)])
def test_mcnemar_against_scipy(lost, won):
    expected = scipy.stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected)


def test_pass_at_k_is_the_chance_of_a_draw_without_replacement():
    correct, samples = torch.tensor([0, 1, 3, 8, 5]), torch.tensor([8, 8, 8, 8, 5])
    for k in (1, 2, 5):
        expected = [1 - math.comb(n - c, k) / math.comb(n, k) for c, n in zip(correct, samples, strict=True)]
        assert pass_at_k(correct, samples, k).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="pass@6"):
        pass_at_k(correct, samples, 6)


def test_a_change_of_the_detectable_size_is_found_as_often_as_promised():
    """Ten thousand simulated evaluations of 100 prompts with 4 samples; a prompt's chance moves from 0.4."""
    size = smallest_detectable_change(100, 4, 0.4 * 0.6)
    generator = np.random.default_rng(0)
    before, after = (generator.binomial(400, p, 10_000) / 400 for p in (0.4, 0.4 + size))
    half = 1.96 * math.sqrt(2 * 0.24 / 400)
    assert np.mean(after - before > half) == pytest.approx(0.8, abs=0.02)
    assert smallest_detectable_change(200, 1, 0.05, power=0.5) == pytest.approx(1.96 * 0.0224, abs=1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 10, 27, 200])
def test_students_t_against_scipy(degrees):
    assert student_t_quantile(0.975, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=3e-3)


def test_the_interval_over_layers_is_scipys():
    values = scores(28)
    expected = scipy.stats.ttest_1samp(values.numpy(), 0).confidence_interval()
    mean, low, high = mean_with_interval(values)
    assert mean == pytest.approx(values.mean().item())
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-3)
