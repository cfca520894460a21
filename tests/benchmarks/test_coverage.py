"""The simulations find what is wrong, and run through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from benchmarks.claims_null import study, verdicts
from benchmarks.coverage import NORMAL, SEEDS, coverage, line, lines, remark
from lit_sdpo.functional import bootstrap_means, percentile_interval
from lit_sdpo.report.claims import CLAIMS
from lit_sdpo.report.comparisons import compare


def test_an_interval_that_is_too_narrow_misses():
    """Percentiles of eight prompts drawn again; by theory about t at 1.96 sqrt(7 / 8)."""

    def percentiles(generator):
        values = torch.from_numpy(NORMAL.draw(generator, (8,)))
        low, high = percentile_interval(bootstrap_means(values, resamples=300))
        return float(low), float(high), NORMAL.mean

    ((share, none),) = coverage(line("percentiles", "normal", "8 prompts", percentiles, 600))
    expected = 2 * scipy.stats.t.cdf(1.96 * math.sqrt(7 / 8), 7) - 1
    assert share == pytest.approx(expected, abs=0.04)
    assert (remark(share), none) == ("misses", 0)


def test_a_trial_without_an_interval_counts_for_neither():
    ends = iter([(math.nan, math.nan, 0.0), (-1.0, 1.0, 0.0), (1.0, 2.0, 0.0), (-1.0, 1.0, 0.0)])
    assert coverage(line("i", "p", "s", lambda generator: next(ends)), 4) == [(pytest.approx(2 / 3), 0.25)]
    assert [remark(x) for x in (0.92, 0.95, 0.98)] == ["misses", "", "conservative"]


@pytest.mark.slow
def test_every_line_has_ends_and_a_truth():
    names = set()
    for some in lines():
        drawn = np.array(some.trial(np.random.default_rng(0)))
        assert drawn.shape == (len(some.intervals), 3)
        assert np.isfinite(drawn[:, 2]).all()
        names |= {(name, some.population, some.size) for name in some.intervals}
    assert len(names) == sum(len(some.intervals) for some in lines())  # none comes twice


def test_where_nothing_differs_every_claim_is_tested_and_none_replicates():
    found = verdicts(SEEDS[0], studies=2, prompts=8, draws=200)
    assert list(found) == [claim for claim in CLAIMS if claim.parts]
    for counts in found.values():
        assert counts.total() == 2
        assert counts["not tested at this scale"] == 0
        assert counts["replicates"] == 0


def test_the_studies_have_no_difference_but_noise():
    made = study(np.random.default_rng(0), seeds=3, prompts=8)
    assert len(made.methods) == 6
    assert sum(each.verdict.endswith("has more") for each in compare(made, methods=["grpo", "sdpo"])) <= 2
