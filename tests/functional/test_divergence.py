from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import rel_entr

from lit_sdpo.functional import (
    divergence,
    log_softmax,
    log_tail_mass,
    logit_divergence,
    mix_logits,
    sampled_divergence,
    squared_hellinger,
    top_k_with_tail,
)

ALPHAS = [0.0, 0.1, 0.5, 0.9, 1.0]
logits = arrays(np.float64, (3, 6), elements=st.floats(-30, 30))
quick = settings(deadline=None, max_examples=40)


def reference(student, teacher, alpha):
    """From the definition, in numpy."""
    s, t = np.exp(scipy_log_softmax(student, -1)), np.exp(scipy_log_softmax(teacher, -1))
    if alpha == 0:
        return rel_entr(t, s).sum(-1)
    if alpha == 1:
        return rel_entr(s, t).sum(-1)
    m = (1 - alpha) * s + alpha * t
    return (1 - alpha) * rel_entr(s, m).sum(-1) + alpha * rel_entr(t, m).sum(-1)


def family(student, teacher, alpha):
    return divergence(log_softmax(student), log_softmax(teacher), alpha)


@quick
@given(logits, logits, st.sampled_from(ALPHAS))
def test_value_is_the_definition(student, teacher, alpha):
    value = family(torch.tensor(student), torch.tensor(teacher), alpha).numpy()
    np.testing.assert_allclose(value, reference(student, teacher, alpha), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [1e-45, 1e-38, 1e-20, 1e-8, 1e-3, 1 - 1e-9])
def test_small_alpha_where_one_side_is_impossible_in_float32(alpha):
    torch.manual_seed(0)
    student = (15 * torch.randn(50, 30)).log_softmax(-1).requires_grad_()
    teacher = (15 * torch.randn(50, 30)).log_softmax(-1)
    value = divergence(student, teacher, alpha)
    value.sum().backward()
    expected = reference(student.detach().double().numpy(), teacher.double().numpy(), alpha)
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-6, atol=1e-6)
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() <= 10 * max(alpha, 1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient_is_that_of_central_differences(alpha):
    torch.manual_seed(0)
    student = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: family(x, teacher, alpha), student)


@quick
@given(logits, logits, st.sampled_from([0.05, 0.1, 0.5, 0.9]))
def test_jensen_shannon_is_bounded(student, teacher, alpha):
    bound = -(1 - alpha) * math.log(1 - alpha) - alpha * math.log(alpha)
    value = family(torch.tensor(student), torch.tensor(teacher), alpha)
    assert (value >= -1e-12).all()
    assert (value <= bound + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_distributions_have_value_and_gradient_zero(alpha, dtype):
    student = (4 * torch.randn(50, 300, generator=torch.Generator().manual_seed(1))).to(dtype).requires_grad_()
    for k in (None, 10):
        pair = (student, student.detach().clone())
        pair = tuple(map(log_softmax, pair)) if k is None else top_k_with_tail(*pair, k)
        value = divergence(*pair, alpha)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert (value == 0).all()
        assert (gradient == 0).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_constant_added_to_the_logits_changes_nothing(alpha):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 9, dtype=torch.float64)
    shifted = family(student + 1000, teacher - 700, alpha)
    torch.testing.assert_close(shifted, family(student, teacher, alpha), rtol=1e-9, atol=1e-11)


def test_the_family_tends_to_the_forward_kl_when_divided_by_alpha():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 9, dtype=torch.float64)
    scaled = family(student, teacher, 1e-7) / 1e-7
    torch.testing.assert_close(scaled, family(student, teacher, 0.0), rtol=1e-5, atol=0)


@quick
@given(logits, logits, st.sampled_from(ALPHAS), st.integers(1, 5))
def test_a_tail_bucket_never_adds_divergence(student, teacher, alpha, k):
    student, teacher = torch.tensor(student), torch.tensor(teacher)
    merged = divergence(*top_k_with_tail(student, teacher, k), alpha)
    assert (merged <= family(student, teacher, alpha) + 1e-9).all()
    assert (merged >= -1e-12).all()


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("k", [6, 100])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_top_k_of_everything_is_the_full_divergence(alpha, k, tail):
    torch.manual_seed(0)
    student = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 6, dtype=torch.float64)
    full, reduced = family(student, teacher, alpha), divergence(*top_k_with_tail(student, teacher, k, tail=tail), alpha)
    torch.testing.assert_close(reduced, full, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(x.sum(), student)[0] for x in (reduced, full)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("confidence", [15.0, 25.0, 40.0])
def test_tail_gradient_at_confident_tokens_in_float32(alpha, confidence):
    """Where the top entry holds nearly all mass, 1 - sum in float32 has no digit of the tail left."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 50, dtype=torch.float64)
    student[:, 7] += confidence
    teacher[:, 7] += confidence - 3

    def gradient(dtype):
        x = student.to(dtype).requires_grad_()
        value = divergence(*top_k_with_tail(x, teacher.to(dtype), 3), alpha)
        return torch.autograd.grad(value.sum(), x)[0].double()

    exact = gradient(torch.float64)
    outside = torch.ones(50, dtype=torch.bool)
    outside[7] = False
    error = (gradient(torch.float32) - exact)[:, outside].norm() / exact[:, outside].norm()
    assert error < 1e-3


def test_tail_mass_against_one_minus_the_sum():
    x = torch.zeros(4)
    x[0] = 30.0
    ids = torch.tensor([0])
    tail = log_tail_mass(x, ids) - x.logsumexp(-1)
    assert tail.item() == pytest.approx(math.log(3) - 30, abs=1e-4)
    assert 1 - x.softmax(-1)[0] == 0  # what the other form would have to take the logarithm of


def test_tail_of_impossible_entries_is_empty_and_has_gradient_zero():
    x = torch.tensor([1.0, 2.0, -torch.inf, -torch.inf], requires_grad=True)
    student, teacher = top_k_with_tail(x, torch.tensor([0.0, 1.0, 0.5, -torch.inf]), 2)
    assert student[-1] == -torch.inf
    (gradient,) = torch.autograd.grad(divergence(student, teacher, 0.5), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_impossible_entries(alpha):
    student = torch.tensor([0.5, 0.5, 0.0, 0.0]).log().requires_grad_()
    teacher = torch.tensor([0.5, 0.25, 0.25, 0.0]).log()
    value = divergence(student, teacher, alpha)
    if alpha == 0:
        assert value == torch.inf  # the student cannot say what the teacher says
    else:
        assert value.item() == pytest.approx(reference(student.detach().numpy(), teacher.numpy(), alpha))
        assert torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_masked_places_change_nothing(alpha, bad):
    torch.manual_seed(0)
    student, teacher = log_softmax(torch.randn(2, 3, 5))
    mask = torch.tensor([True, False, True])
    student[1] = teacher[1] = bad
    student.requires_grad_()
    value = divergence(student, teacher, alpha, mask)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value[1] == 0
    assert (gradient[1] == 0).all()
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_the_teacher_has_no_gradient():
    student, teacher = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    for value in (
        family(student, teacher, 0.5),
        divergence(*top_k_with_tail(student, teacher, 2), 0.5),
        squared_hellinger(log_softmax(student), log_softmax(teacher)),
        sampled_divergence(log_softmax(student)[:, 0], log_softmax(teacher)[:, 0]),
    ):
        assert torch.autograd.grad(value.sum(), teacher, allow_unused=True)[0] is None


def test_expected_sampled_gradient_is_that_of_the_reverse_kl():
    torch.manual_seed(0)
    student = torch.randn(8, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(8, dtype=torch.float64)
    s, t = log_softmax(student), log_softmax(teacher)
    expected = (s.detach().exp() * sampled_divergence(s, t)).sum()
    sampled, full = (torch.autograd.grad(x, student)[0] for x in (expected, family(student, teacher, 1.0)))
    torch.testing.assert_close(sampled, full, rtol=1e-12, atol=1e-15)


@quick
@given(logits, logits)
def test_squared_hellinger(student, teacher):
    s, t = np.exp(scipy_log_softmax(student, -1)), np.exp(scipy_log_softmax(teacher, -1))
    value = squared_hellinger(log_softmax(torch.tensor(student)), log_softmax(torch.tensor(teacher))).numpy()
    np.testing.assert_allclose(value, 1 - np.sqrt(s * t).sum(-1), rtol=1e-9, atol=1e-12)


def test_mixed_logits():
    a, b = torch.tensor([1.0, -torch.inf]), torch.tensor([3.0, -torch.inf])
    assert torch.equal(mix_logits(a, b, 0.25), torch.tensor([1.5, -torch.inf]))
    assert mix_logits(a, b, 0) is a
    assert mix_logits(a, b, 1) is b
    geometric = (0.7 * log_softmax(torch.arange(4.0)) + 0.3 * log_softmax(torch.arange(4.0).cos())).softmax(-1)
    torch.testing.assert_close(mix_logits(torch.arange(4.0), torch.arange(4.0).cos(), 0.3).softmax(-1), geometric)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_outside_its_range(alpha):
    with pytest.raises(ValueError, match="alpha"):
        divergence(torch.zeros(1), torch.zeros(1), alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_from_logits_it_is_the_same_in_value_and_gradient(alpha, temperature, monkeypatch):
    monkeypatch.setattr(sys.modules["lit_sdpo.functional.divergence"], "_BLOCK_ELEMENTS", 20)  # two rows at a time
    torch.manual_seed(0)
    student, teacher = 5 * torch.randn(2, 3, 5, 9, dtype=torch.float64)
    student[0, 0, 2] = teacher[0, 0, 2] = teacher[1, 1, 3] = -torch.inf
    weight = torch.randn(3, 5, dtype=torch.float64)
    found = []
    for kind in ("logits", "log-probabilities"):
        x = student.clone().requires_grad_()
        if kind == "logits":
            made = logit_divergence(x, teacher, alpha, temperature)
        else:
            made = divergence(log_softmax(x, temperature), log_softmax(teacher, temperature), alpha)
        finite = made.isfinite()
        (made.masked_fill(~finite, 0.0) * weight).sum().backward()
        found.append((made.detach(), x.grad.masked_fill(~finite[..., None], 0.0)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="alpha"):
        logit_divergence(student, teacher, 1.5)


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 1.0, 30.0])
def test_jensen_shannon_of_logits_keeps_its_digits(distance):
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(8, 500, generator=generator)
    teacher = student + distance * torch.randn(8, 500, generator=generator)
    found = []
    for kind, how in ((torch.float32, logit_divergence), (torch.float64, None)):
        x, y = student.to(kind, copy=True).requires_grad_(), teacher.to(kind)
        made = how(x, y, 0.5) if how else divergence(x.log_softmax(-1), y.log_softmax(-1), 0.5)
        made.sum().backward()
        found.append((made.detach().double(), x.grad.double()))
    (value, gradient), (exact, exact_gradient) = found
    assert (gradient - exact_gradient).norm() <= 5e-5 * exact_gradient.norm()
    torch.testing.assert_close(value, exact, rtol=1e-2 if distance < 1e-3 else 1e-4, atol=0.0)
