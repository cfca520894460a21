"""GSPO's and CISPO's steps against their formulas, row by row in float64, also where engine and policy differ."""

from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.functional import logprobs as chunks
from lit_sdpo.modules import CISPO, GRPO, GSPO
from lit_sdpo.policies import scoring
from lit_sdpo.rollouts.engines.base import RolloutEngine
from lit_sdpo.rollouts.engines.native import NativeEngine
from tests.modules.test_base import AGGREGATIONS
from tests.modules.test_variants import Run, Sample, double, make
from tests.training import assert_close_gradients, rollout_callback, toy_data

CORRECTIONS = [None, "weight", "ratio"]
NARROW = {"clip_eps_low": 0.01, "clip_eps_high": 0.02}
WIDE = {"clip_eps_low": 0.9, "clip_eps_high": 9.0}


class Noisy(RolloutEngine):
    """Reports other probabilities than it drew with, off by more and less from token to token."""

    def generate(self, policy, prompts, **call):
        drawn = NativeEngine().generate(policy, prompts, **call)
        places = torch.arange(drawn.logprobs.numel()).view_as(drawn.logprobs)
        drawn.logprobs = drawn.logprobs + (2.1 * places).sin()
        drawn.log_kept_mass = None
        return drawn


def run(tmp_path, tiny, kind, correction=None, slots=2, **options):
    settings = {} if correction is None else {"engine": Noisy(), "correction": correction}
    return Run(
        tmp_path,
        make(kind, tiny, **options),
        toy_data(steps=2, updates_per_rollout=2),
        slots=slots,
        rollout=rollout_callback(**settings),
    )


def rows(made, tiny, update, correction):
    """Of each row: its advantage, log-probabilities now (with gradient) and before, and engine weights; the policy."""
    policy, old = double(tiny, made.steps.weights[update]), double(tiny, made.steps.weights[0])
    reported, found = made.rollouts().completions.logprobs.double(), []
    for n in range(len(made.rollouts())):
        sample = Sample(made, 0, n, policy, None)
        now = sample.of_ids(sample.student)
        with torch.no_grad():
            before = sample.of_ids(sample.read(old, sample.prompt))
        engine, weights = reported[n, : len(before)], torch.ones_like(before)
        if correction == "weight":
            weights = (before - engine).exp().clamp(max=2.0)
        elif correction == "ratio":
            before = torch.maximum(engine, now.detach() - math.log(2.0))
        found.append((sample.advantage, now, before, weights))
    return found, policy


def per_token(row_losses, aggregation):
    """A step's loss from those of its rows' tokens; every row has a reward."""
    if aggregation == "token_mean":
        return torch.cat(row_losses).mean()
    sums = torch.stack([losses.mean() if "token_mean" in aggregation else losses.sum() for losses in row_losses])
    return sums.mean()


def gspo(advantage, now, before, weights, low, high):
    ratio = (now - before).mean().exp()
    return -weights * torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def cispo(advantage, now, before, weights, least, most):
    return -weights * (now - before).exp().detach().clamp(least, most) * advantage * now


def check(made, tiny, correction, form, bounds, aggregation):
    """Both updates of a window."""
    for update in (0, 1):
        found, policy = rows(made, tiny, update, correction)
        per_token([form(*row, *bounds) for row in found], aggregation).backward()
        expected = {name: p.grad for name, p in policy.named_parameters()}
        assert_close_gradients(made.steps.gradient(update), expected)
    return [logged["train/clip_fraction"] for logged in made.steps.logged]


@pytest.mark.parametrize(("correction", "clip"), [(None, NARROW), ("weight", NARROW), ("ratio", WIDE)])
def test_gspo_is_its_formula(tmp_path, tiny, monkeypatch, correction, clip):
    """Chunks of three tokens: no row is seen whole while the loss is built."""
    for module in (chunks, scoring):
        monkeypatch.setattr(module, "default_chunk_size", lambda *_: 3)
    made = run(tmp_path, tiny, GSPO, correction, **clip)
    first, second = check(made, tiny, correction, gspo, clip.values(), "seq_mean_token_mean")
    assert first == 0
    assert second > 0


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_cispo_is_its_formula(tmp_path, tiny, correction):
    made = run(tmp_path, tiny, CISPO, correction, ratio_min=0.99, ratio_max=1.01)
    first, second = check(made, tiny, correction, cispo, (0.99, 1.01), "token_mean")
    assert (first > 0) == (correction == "ratio")
    assert second > 0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("kind", "form", "options", "bounds"),
    [(GSPO, gspo, WIDE, (0.9, 9.0)), (CISPO, cispo, {"ratio_max": 9.0}, (0.0, 9.0))],
    ids=["gspo", "cispo"],
)
def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path, tiny, kind, form, options, bounds, aggregation):
    """Three slots do not divide the rows evenly; the formula knows of none."""
    made = run(tmp_path, tiny, kind, "weight", slots=3, aggregation=aggregation, **options)
    check(made, tiny, "weight", form, bounds, aggregation)


@pytest.mark.parametrize("kind", [GSPO, CISPO])
def test_the_first_update_is_grpos_and_the_second_is_not(tmp_path, tiny, kind):
    options = {"aggregation": "seq_mean_token_mean"}
    grpo, other = (run(tmp_path, tiny, each, **options) for each in (GRPO, kind))
    assert_close_gradients(other.steps.gradient(0), grpo.steps.gradient(0))
    assert other.steps.logged[0]["train/clip_fraction"] == 0
    ours, theirs = (torch.cat([g.flatten() for g in made.steps.gradient(1).values()]) for made in (other, grpo))
    assert (ours - theirs).norm() > 1e-3 * theirs.norm()


def test_only_a_ratio_of_rows_reads_them_before(tmp_path, tiny, monkeypatch):
    read, seen = scoring.read_logits, []
    monkeypatch.setattr("lit_sdpo.modules.objective.read_logits", lambda *call: seen.append(read(*call)))
    for kind, count in ((GRPO, 0), (CISPO, 0), (GSPO, 2)):  # GSPO's second update, in two slices
        seen.clear()
        run(tmp_path, tiny, kind)
        assert len(seen) == count


def test_ranges(tiny):
    for options in ({"clip_eps_low": 0.0}, {"clip_eps_high": -1.0}):
        with pytest.raises(ValueError, match="clip_eps"):
            GSPO(tiny, **options)
    for options in ({"ratio_min": 1.5}, {"ratio_max": 0.5}, {"ratio_min": -0.1}, {"kl_beta": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            CISPO(tiny, **options)
