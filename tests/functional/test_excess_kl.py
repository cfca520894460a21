"""The identities of the theory on an enumerated tree: vocabulary 3, horizon 3."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize

from lit_sdpo.functional import (
    binary_kl,
    excess_forward_kl,
    excess_kl_bounds,
    excess_kl_estimate,
    excess_reverse_kl,
    kl,
    prefix_probabilities,
    razor_policy,
    razor_token_kernels,
    token_kernels,
)
from tests.golden.check import check_case

SHAPE = (3, 3, 3)
EXACT = {"rtol": 0, "atol": 1e-12}


def world(seed):
    generator = torch.Generator().manual_seed(seed)

    def policy():
        return torch.randn(27, dtype=torch.float64, generator=generator).softmax(0).reshape(SHAPE)

    success = torch.rand(27, generator=generator).argsort().reshape(SHAPE) < 9
    return policy(), policy(), success


@pytest.fixture(params=range(5))
def case(request):
    return world(request.param)


def test_lemma_2(case):
    base, _, success = case
    for alpha in (0.1, 0.5, 0.99, 1.0):
        razor = razor_policy(base, success, alpha)
        torch.testing.assert_close(razor.sum(), torch.tensor(1.0, dtype=torch.float64), **EXACT)
        torch.testing.assert_close(razor[success].sum(), torch.tensor(alpha, dtype=torch.float64), **EXACT)
        z = base[success].sum()
        torch.testing.assert_close(kl(razor, base), binary_kl(torch.tensor(alpha, dtype=torch.float64), z), **EXACT)


def test_no_other_policy_of_the_same_success_is_nearer():
    base = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
    success = torch.tensor([True, True, False, False])

    def objective(x):
        p = torch.as_tensor(x).softmax(0)
        return float(kl(p, base))

    constraint = {"type": "eq", "fun": lambda x: float(torch.as_tensor(x).softmax(0)[success].sum()) - 0.7}
    best = minimize(objective, [0.0, 0.1, 0.2, 0.3], constraints=constraint, tol=1e-12)
    found = torch.as_tensor(best.x).softmax(0)
    torch.testing.assert_close(found, razor_policy(base, success, 0.7), rtol=0, atol=1e-4)


def test_lemma_3(case):
    base, _, success = case
    for alpha in (0.3, 0.9):
        ours = razor_token_kernels(base, success, alpha)
        for a, b in zip(ours, token_kernels(razor_policy(base, success, alpha)), strict=True):
            torch.testing.assert_close(a, b, **EXACT)
            torch.testing.assert_close(a.sum(-1), torch.ones_like(a[..., 0]), **EXACT)


def test_lemma_3_as_alpha_tends_to_one(case):
    base, _, success = case
    solved = prefix_probabilities(base * success)
    reach = prefix_probabilities(base)
    for t, kernel in enumerate(razor_token_kernels(base, success, 1.0)):
        chance = [s / r for s, r in zip(solved, reach, strict=True)]
        expected = token_kernels(base)[t] * chance[t + 1] / chance[t].unsqueeze(-1)
        torch.testing.assert_close(kernel, expected, equal_nan=True, **EXACT)


def test_theorem_1(case):
    base, policy, success = case
    razor = razor_policy(base, success, policy[success].sum())
    excess = excess_reverse_kl(policy, base, success)
    torch.testing.assert_close(excess, kl(policy, razor), **EXACT)
    by_token = sum(
        (reach.unsqueeze(-1) * p * (p / q).log()).sum()
        for reach, p, q in zip(prefix_probabilities(policy), token_kernels(policy), token_kernels(razor), strict=False)
    )
    torch.testing.assert_close(excess, by_token, **EXACT)
    assert excess > 0
    assert abs(excess_reverse_kl(razor, base, success)) < 1e-12


def test_proposition_4(case):
    base, policy, success = case
    z = base[success].sum()
    expected = sum(
        share * kl(base[part] / base[part].sum(), policy[part] / policy[part].sum())
        for share, part in ((z, success), (1 - z, ~success))
    )
    torch.testing.assert_close(excess_forward_kl(policy, base, success), expected, **EXACT)
    assert expected > 0


def test_estimate_converges_to_the_excess(case):
    base, policy, success = case
    ids = torch.multinomial(policy.flatten(), 100_000, replacement=True, generator=torch.Generator().manual_seed(0))
    p, b, s = (x.flatten()[ids][None] for x in (policy, base, success))
    got = excess_kl_estimate(p.log(), b.log(), s.double().mean(-1), base[success].sum()[None])
    assert got.item() == pytest.approx(excess_reverse_kl(policy, base, success).item(), abs=0.02)


def drawn_bounds(policy, base, success, completions, prompts=20_000):
    """Bounds of many prompts that are all alike, from as many completions of the policy as of the base."""
    generator = torch.Generator().manual_seed(0)
    policy, base, success = policy.flatten(), base.flatten(), success.flatten().double()
    ids = [
        torch.multinomial(law, prompts * completions, replacement=True, generator=generator).view(prompts, completions)
        for law in (policy, base)
    ]
    ratio = policy.log() - base.log()
    return excess_kl_bounds(ratio[ids[0]], success[ids[0]], ratio[ids[1]], success[ids[1]])


@pytest.mark.parametrize("completions", [2, 4, 16])
def test_bounds_hold_the_excess_on_average(case, completions):
    base, policy, success = case
    excess = excess_reverse_kl(policy, base, success).item()
    at_least, at_most = drawn_bounds(policy, base, success, completions)
    error = 3 * at_most.std().item() / len(at_most) ** 0.5
    assert at_least.min() >= 0
    assert bool((at_least <= at_most).all())
    assert 0.1 * excess < at_least.mean() < excess + error
    assert at_most.mean() > excess - error


def test_bounds_meet_where_completions_are_many(case):
    base, policy, success = case
    at_least, at_most = drawn_bounds(policy, base, success, 1000, prompts=50)
    assert at_most.mean() - at_least.mean() < 0.1


@pytest.mark.parametrize("z", [0.005, 0.05, 0.2, 0.45])
@pytest.mark.parametrize("completions", [1, 4, 8])
def test_a_policy_that_moved_no_further_than_success_needs_has_no_excess(case, z, completions):
    """However rare success is and however few the completions; ``at_most`` is 0, too, where the base shows both."""
    base, _, success = case
    base = torch.where(success, z * base / base[success].sum(), (1 - z) * base / base[~success].sum())
    razor = razor_policy(base, success, 0.95)
    at_least, at_most = drawn_bounds(razor, base, success, completions, prompts=2000)
    assert at_least.max() < 1e-12
    seen = at_most < 1e-9
    both = 1 - z**completions - (1 - z) ** completions  # chance of a success and a failure among the base's
    assert seen.double().mean() >= both - 3 * (both * (1 - both) / 2000) ** 0.5 - 1e-9


def test_completions_that_nobody_judged_do_not_count():
    ratios, right = torch.tensor([[1.0, 3.0, 9.0], [1.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.0, torch.nan]] * 2)
    right[1] = torch.nan
    base = torch.tensor([[1.0, 7.0, 0.0]] * 2), torch.tensor([[1.0, torch.nan, 0.0]] * 2)
    at_least, at_most = excess_kl_bounds(ratios, right, *base)
    assert at_least[0].item() == pytest.approx(2 + math.log((math.exp(-1) + math.exp(-3)) / 2))
    assert at_most[0].item() == pytest.approx(2 - 1)
    assert at_least[1].isnan()
    assert at_most[1].isnan()


FILE = json.loads((Path(__file__).parents[1] / "golden" / "turn2.json").read_text())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [c for c in FILE["cases"] if c["group"] == "excess_kl"], ids=lambda c: c["id"])
def test_golden_cases(case, dtype):
    assert check_case(case, dtype, FILE["tolerance"]) == []


def test_kl_at_its_ends():
    sure, even = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert kl(sure, even).item() == pytest.approx(0.6931472)
    assert kl(even, sure) == torch.inf
    assert binary_kl(torch.tensor(0.0), torch.tensor(0.0)) == 0


@pytest.mark.parametrize("success", [[True, True], [False, False]])
def test_a_base_that_always_or_never_succeeds(success):
    with pytest.raises(ValueError, match="succeed and fail"):
        razor_policy(torch.tensor([0.5, 0.5]), torch.tensor(success), 0.5)
