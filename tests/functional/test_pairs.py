from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from lit_sdpo.functional import bootstrap_means, percentile_interval
from lit_sdpo.functional.pairs import combine, holm, p_value, sign_flip, student_draws


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
    monkeypatch.setattr("lit_sdpo.functional.pairs.ALL_FLIPS", 5)
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
