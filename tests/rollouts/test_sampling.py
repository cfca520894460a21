from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from lit_sdpo.rollouts.sampling import sample, sample_seeds, uniforms
from lit_sdpo.rollouts.types import Sampling


def splitmix(x: int) -> int:
    """SplitMix64's finaliser in Python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def filtered(logits: list[float], sampling: Sampling) -> list[float]:
    """The exact distribution, by the definitions, in Python floats."""
    weights = [math.exp((x - max(logits)) / sampling.temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if sampling.top_p < 1 and mass >= sampling.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    kept = [i for i in kept if weights[i] >= sampling.min_p * weights[order[0]]]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("position", [0, 1, 14_335])
def test_uniforms_follow_splitmix64_in_exact_integers(seed, position):
    state = splitmix(splitmix(seed % 2**64) + (position + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1))
    assert uniforms(torch.tensor([seed]), position).item() == (state >> 11) * 2.0**-53


def test_uniforms_are_pinned():
    numbers = uniforms(torch.tensor([0, 1, 7]), torch.tensor([[0], [5]]))
    expected = [
        0.8833108082136426,
        0.7497482413580301,
        0.5243459416779314,
        0.32732576421812576,
        0.5957679321666499,
        0.34460674653637824,
    ]
    torch.testing.assert_close(numbers, torch.tensor(expected, dtype=torch.float64).view(2, 3), rtol=0, atol=0)


@pytest.mark.parametrize("vary", ["seed", "position"])
def test_uniforms_are_uniform_and_uncorrelated(vary):
    count = torch.arange(100_000)
    numbers = uniforms(count, 3) if vary == "seed" else uniforms(torch.tensor([3]), count)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    for lag in (1, 2, 8):
        assert abs(torch.corrcoef(torch.stack((numbers[:-lag], numbers[lag:])))[0, 1]) < 0.015


def test_seeds_are_pinned_and_tell_everything_apart():
    seeds = sample_seeds(1, "train", 0, 2, item_ids=["a", "b"], num_generations=2)
    assert seeds.tolist() == [442786416998912370, 3953309895939282458, 8882833267970069756, 4470141295326292998]
    variants = [
        sample_seeds(2, "train", 0, 2, item_ids=["a"], num_generations=1),
        sample_seeds(1, "validation", 0, 2, item_ids=["a"], num_generations=1),
        sample_seeds(1, "train", 1, 2, item_ids=["a"], num_generations=1),
        sample_seeds(1, "train", 0, 3, item_ids=["a"], num_generations=1),
        sample_seeds(1, "train", 0, 2, item_ids=["0"], num_generations=1),
        sample_seeds(1, "train", 0, "2", item_ids=["a"], num_generations=1),
    ]
    assert len({int(seed) for seed in (*seeds, *torch.cat(variants))}) == 4 + len(variants)
    one = sample_seeds(1, "train", 0, 2, item_ids=["b"], num_generations=1)
    assert one.item() == seeds[2].item()


@pytest.mark.parametrize(("vocabulary", "draws"), [(7, 100_000), (300, 40_000), (2000, 8000)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
        {"top_k": 100_000, "top_p": 0.999},
    ],
    ids=str,
)
def test_frequencies_and_logprobs_match_the_exact_distribution(vocabulary, draws, options):
    sampling = Sampling(**options)
    spread = 2.0 if vocabulary == 7 else 3.0
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * spread
    expected = torch.tensor(filtered(logits.tolist(), sampling), dtype=torch.float64)
    drawn_ids, logprobs, mass = sample(logits.expand(draws, -1), sampling, uniforms(torch.arange(draws), 0))
    torch.testing.assert_close(logprobs.double(), expected.log()[drawn_ids], rtol=0, atol=2e-6)
    whole = (logits.double() / sampling.temperature).log_softmax(-1)
    torch.testing.assert_close((logprobs + mass).double(), whole[drawn_ids], rtol=0, atol=2e-6)
    assert (mass != 0).any() == (float(whole.exp()[expected > 0].sum()) < 1 - 1e-7)
    counts = torch.bincount(drawn_ids, minlength=vocabulary).double()
    assert counts[expected == 0].sum() == 0
    common = expected * draws >= 5
    observed = torch.cat((counts[common], counts[~common].sum()[None]))
    wanted = torch.cat((expected[common], expected[~common].sum()[None])) * draws
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    if len(wanted) > 1:
        assert stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > 1e-4


def test_top_p_sorts_everything_where_the_most_likely_tokens_fall_short():
    logits = torch.zeros(1, 5000)
    logits[0, :10] = 1e-3
    ids, logprobs, _ = sample(logits.expand(2000, -1), Sampling(top_p=0.9), uniforms(torch.arange(2000), 0))
    assert len(ids.unique()) > 1024
    assert logprobs.exp().mean().item() == pytest.approx(1 / 4500, rel=1e-2)


@pytest.mark.parametrize("vocabulary", [1, 2, 255, 256, 257, 1000])
@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2.0**-53, 1.0])
@pytest.mark.parametrize("forbidden", ["first", "last", "all but one"])
def test_extreme_uniforms_never_pick_a_forbidden_token(vocabulary, number, forbidden):
    logits = torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(0)) * 30
    if vocabulary > 1:
        half = vocabulary // 2
        cut = {"first": slice(0, half), "last": slice(half, None), "all but one": slice(1, None)}[forbidden]
        logits[:, cut] = -torch.inf
    ids, logprobs, _ = sample(logits, Sampling(), torch.full((64,), number, dtype=torch.float64))
    assert ids.min() >= 0
    assert ids.max() < vocabulary
    assert logits.gather(1, ids[:, None]).isfinite().all()
    assert logprobs.isfinite().all()


def test_temperature_zero_takes_the_most_likely_token_with_its_plain_logprob():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.0, 0.1]])
    ids, logprobs, _ = sample(logits, Sampling(temperature=0, top_k=1), torch.tensor([0.99, 0.0]))
    assert ids.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_a_tiny_temperature_does_not_overflow():
    ids, logprobs, _ = sample(torch.tensor([[100.0, 99.0]]), Sampling(temperature=0.01), torch.tensor([0.999]))
    assert (ids.item(), logprobs.item()) == (0, 0.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad, temperature):
    logits = torch.zeros(3, 10)
    logits[1, 4] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(logits, Sampling(temperature=temperature), torch.zeros(3))


def test_a_row_without_an_allowed_token_is_an_error():
    with pytest.raises(FloatingPointError, match="no token allowed"):
        sample(torch.full((1, 4), -torch.inf), Sampling(), torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_stay_and_scratch_changes_nothing(dtype):
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(1)).to(dtype)
    before, numbers = logits.clone(), uniforms(torch.arange(5), 2)
    plain = sample(logits, Sampling(temperature=0.7), numbers)
    scratch = torch.full((9 * 1024,), torch.nan)
    reused = sample(logits, Sampling(temperature=0.7), numbers, scratch=scratch)
    assert torch.equal(logits, before)
    assert plain[1].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(plain, reused, strict=True))
