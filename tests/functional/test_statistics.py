from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from lit_sdpo.functional import (
    bootstrap_means,
    mcnemar,
    pass_at_k,
    percentile_interval,
    smallest_detectable_change,
)


def scores(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
