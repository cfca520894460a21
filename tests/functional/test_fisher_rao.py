"""Hellinger and Fisher-Rao distances against their textbook forms in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_sdpo.functional import squared_fisher_rao, squared_hellinger


def distributions(spread, rows=200, size=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, rows, size, generator=generator, dtype=torch.float64)
    return (spread * logits).log_softmax(-1)


def arccos_form(s, a):
    """4 arccos(sum sqrt(S A))^2 with the exact overlap of float64."""
    overlap = np.exp((s.numpy() + a.numpy()) / 2).sum(-1)
    return 4 * np.arccos(np.clip(overlap, -1, 1)) ** 2


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0, 20.0])
def test_fisher_rao_is_the_arccos_form(spread):
    s, a = distributions(spread)
    np.testing.assert_allclose(squared_fisher_rao(s, a).numpy(), arccos_form(s, a), rtol=1e-6)
    np.testing.assert_allclose(squared_fisher_rao(s.float(), a.float()).numpy(), arccos_form(s, a), rtol=2e-4)


@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_hellinger_is_one_minus_the_overlap(spread):
    s, a = distributions(spread)
    np.testing.assert_allclose(squared_hellinger(s, a), 1 - np.exp((s + a).numpy() / 2).sum(-1), rtol=1e-9, atol=1e-12)


def arc(angle):
    """A distribution at an angle from [1, 0] on the quarter circle of its square roots."""
    return torch.stack([angle.cos(), angle.sin()], -1).square().log()


@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-4, 1e-2, 0.0199, 0.0201, 0.1, 0.7])
def test_value_and_gradient_are_right_near_equality(apart):
    """On the quarter circle the distance is twice the angle, so d^2 = 4 apart^2 with derivative 8 apart."""
    angle = torch.tensor(0.3 + apart, dtype=torch.float64, requires_grad=True)
    distance = squared_fisher_rao(arc(angle), arc(torch.tensor(0.3, dtype=torch.float64)))
    distance.backward()
    assert distance.item() == pytest.approx(4 * apart**2, rel=1e-6, abs=1e-15)
    assert angle.grad.item() == pytest.approx(8 * apart, rel=1e-6, abs=1e-9)


def test_float32_at_equality_is_zero_with_a_zero_gradient():
    logits = torch.randn(50, 800, requires_grad=True)
    s = logits.log_softmax(-1)
    distance = squared_fisher_rao(s, s.detach().clone())
    distance.sum().backward()
    assert torch.equal(distance, torch.zeros(50))
    assert logits.grad.abs().max() < 1e-7


def test_opposite_distributions_are_pi_apart_with_a_finite_gradient():
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    anchor = torch.tensor([[-60.0, 60.0]]).log_softmax(-1)
    distance = squared_fisher_rao(logits.log_softmax(-1), anchor)
    distance.sum().backward()
    assert distance.item() == pytest.approx(np.pi**2, rel=1e-2)
    assert bool(logits.grad.isfinite().all())


def test_the_anchor_gets_no_gradient_and_a_mask_silences():
    s, a = (x[:3].clone().requires_grad_() for x in distributions(1.0))
    mask = torch.tensor([True, False, True])
    distance = squared_fisher_rao(s, a, mask)
    distance.sum().backward()
    assert a.grad is None
    assert distance[1] == 0
    assert s.grad[1].abs().max() == 0
    assert s.grad[0].abs().max() > 0
