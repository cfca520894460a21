from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.functional import aggregate, cispo_loss, gspo_loss, kl_penalty, ppo_loss, sequence_ratios

LOSSES = {
    "ppo": ppo_loss,
    "dual": lambda *a, **k: ppo_loss(*a, dual=3.0, **k),
    "gspo": gspo_loss,
    "cispo": cispo_loss,
}


def case():
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(3, 4, dtype=torch.float64, generator=generator)
    old = logp + 0.5 * torch.randn(3, 4, dtype=torch.float64, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    return logp.requires_grad_(), old, torch.tensor([1.3, -0.7, 2.0], dtype=torch.float64), mask


@pytest.mark.parametrize("name", LOSSES)
def test_first_update_has_the_policy_gradient(name):
    """At r = 1 no clipping matters: the gradient of each token is -A, over the row's length for GSPO's mean."""
    logp, _, advantages, mask = case()
    for width in (1e-6, 0.5):
        options = {} if name == "cispo" else {"low": width, "high": width}
        loss = LOSSES[name](logp, logp.detach(), advantages, mask=mask, **options)
        (gradient,) = torch.autograd.grad((loss.per_token * mask).sum(), logp)
        torch.testing.assert_close(gradient, -advantages[:, None] * mask)
        assert not (loss.clipped_low | loss.clipped_high).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize("name", [*LOSSES, "k1", "k2", "k3"])
def test_masked_places_change_nothing(name, bad):
    logp, old, advantages, mask = case()
    results = []
    for value in (0.0, bad):
        x = logp.detach().masked_fill(~mask, value).requires_grad_()
        o = old.masked_fill(~mask, value)
        if name in LOSSES:
            per_token = LOSSES[name](x, o, advantages, mask=mask).per_token
        else:
            per_token = kl_penalty(x, o, name, mask=mask)
        loss = aggregate(per_token, mask)
        results.append((loss, torch.autograd.grad(loss, x)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[1][1].isfinite().all()


@pytest.mark.parametrize("name", ["ppo", "dual", "cispo"])
def test_flat_tokens_and_padded_rows_agree(name):
    logp, old, advantages, mask = case()
    padded = LOSSES[name](logp, old, advantages, mask=mask).per_token
    flat = LOSSES[name](logp[mask], old[mask], advantages[:, None].expand_as(mask)[mask]).per_token
    torch.testing.assert_close(padded[mask], flat)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # above the range, more would be rewarded: stopped
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),  # below the range, less would be rewarded: stopped
        (0.5, 2.0, -1.0, -1.0),
        (4.0, -2.0, 6.0, 0.0),  # dual clip at 3
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, gradient):
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    got = ppo_loss(logp, torch.zeros(1), torch.tensor([advantage]), dual=3.0).per_token
    assert got.item() == pytest.approx(loss)
    assert torch.autograd.grad(got.sum(), logp)[0].item() == pytest.approx(gradient)


def test_a_huge_ratio_does_not_overflow():
    logp = torch.tensor([500.0], requires_grad=True)
    for advantage in (0.0, -1.0):
        loss = ppo_loss(logp, torch.zeros(1), torch.tensor([advantage])).per_token
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), logp)[0].isfinite().all()


def test_ratios_of_rows_are_geometric_means_of_those_of_tokens():
    logp, old, advantages, mask = case()
    ratios = sequence_ratios(logp, old.masked_fill(~mask, math.nan), mask)
    for row, ratio in zip(range(3), ratios.tolist(), strict=True):
        tokens = [math.exp((logp[row, t] - old[row, t]).item()) for t in range(4) if mask[row, t]]
        assert ratio == pytest.approx(math.prod(tokens) ** (1 / max(len(tokens), 1)), rel=1e-12)
    # Inside the range GSPO's loss is -s A at each token.
    wide = gspo_loss(logp, old, advantages, low=0.9, high=9.0, mask=mask).per_token
    torch.testing.assert_close(wide[mask], (-ratios * advantages)[:, None].expand_as(mask)[mask])
    (gradient,) = torch.autograd.grad(ratios.sum(), logp)
    torch.testing.assert_close(gradient, (ratios / mask.sum(1).clamp(min=1))[:, None] * mask)


def test_cispo_keeps_the_gradient_where_it_bounds_the_weight():
    logp, old = torch.tensor([2.0, -3.0], requires_grad=True), torch.zeros(2)
    loss = cispo_loss(logp, old, torch.tensor([1.0, 1.0]), ratio_min=0.5, ratio_max=1.28)
    assert loss.clipped_high.tolist() == [True, False]
    assert loss.clipped_low.tolist() == [False, True]
    torch.testing.assert_close(torch.autograd.grad(loss.per_token.sum(), logp)[0], torch.tensor([-1.28, -0.5]))


def test_kl_estimates_average_to_the_kl():
    torch.manual_seed(0)
    p, q = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    exact = (p.exp() * (p - q)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p.exp() * kl_penalty(p, q, kind)).sum(), exact)
    assert (kl_penalty(p, q, "k3") >= 0).all()


def test_gradient_of_k2_averages_to_that_of_the_kl():
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    q, p = torch.randn(6, dtype=torch.float64).log_softmax(-1), logits.log_softmax(-1)
    expected = (p.detach().exp() * kl_penalty(p, q, "k2")).sum()
    exact = (p.exp() * (p - q)).sum()
    torch.testing.assert_close(*(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (expected, exact)))


def test_unknown_estimator():
    with pytest.raises(ValueError, match="unknown"):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k4")
