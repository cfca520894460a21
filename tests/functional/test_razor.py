"""The identities of the theory on an enumerated tree: vocabulary 3, horizon 3."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize

from lit_sdpo.functional import (
    binary_kl,
    excess_forward_kl,
    excess_kl_estimate,
    excess_reverse_kl,
    kl,
    prefix_probabilities,
    razor_policy,
    razor_token_kernels,
    token_kernels,
)

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


def test_kl_at_its_ends():
    sure, even = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert kl(sure, even).item() == pytest.approx(0.6931472)
    assert kl(even, sure) == torch.inf
    assert binary_kl(torch.tensor(0.0), torch.tensor(0.0)) == 0


@pytest.mark.parametrize("success", [[True, True], [False, False]])
def test_a_base_that_always_or_never_succeeds(success):
    with pytest.raises(ValueError, match="succeed and fail"):
        razor_policy(torch.tensor([0.5, 0.5]), torch.tensor(success), 0.5)
