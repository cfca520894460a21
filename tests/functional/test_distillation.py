from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.functional import aggregate, sdpo_loss, token_logprobs_from_logits

FORMS = [{"alpha": 0.0}, {"alpha": 0.5, "top_k": 3}, {"alpha": 1.0, "top_k": 3, "tail": False}, {"alpha": None}]


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 3, 5, 9, dtype=dtype, generator=generator)
    ids = torch.randint(9, (3, 5), generator=generator)
    old = token_logprobs_from_logits(student, ids) + 0.8 * torch.randn(3, 5, dtype=dtype, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    return student.requires_grad_(), teacher, ids, old, mask


@pytest.mark.parametrize("form", FORMS)
def test_flat_tokens_and_padded_rows_agree(form):
    student, teacher, ids, old, mask = case()
    padded = sdpo_loss(student, teacher, ids, old_logprobs=old, importance_clip=2.0, mask=mask, **form)
    flat = sdpo_loss(student[mask], teacher[mask], ids[mask], old_logprobs=old[mask], importance_clip=2.0, **form)
    torch.testing.assert_close(padded[mask], flat)
    assert (padded[~mask] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", FORMS)
def test_masked_places_change_nothing(form, bad):
    student, teacher, ids, old, mask = case()
    results = []
    for value in (0.0, bad):
        x = student.detach().masked_fill(~mask[..., None], value).requires_grad_()
        t, o = teacher.masked_fill(~mask[..., None], value), old.masked_fill(~mask, value)
        loss = aggregate(sdpo_loss(x, t, ids, old_logprobs=o, importance_clip=2.0, mask=mask, **form), mask)
        results.append((loss, torch.autograd.grad(loss, x)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[1][1].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_padding_side_and_amount_change_nothing(form):
    student, teacher, ids, _, mask = case()
    order = torch.tensor([3, 4, 0, 1, 2])  # the padding of row 1 now stands on both sides
    moved = sdpo_loss(student[:, order], teacher[:, order], ids[:, order], mask=mask[:, order], **form)
    plain = sdpo_loss(student, teacher, ids, mask=mask, **form)
    torch.testing.assert_close(aggregate(moved, mask[:, order]), aggregate(plain, mask))


def test_importance_weight_is_bounded_and_has_no_gradient():
    student, teacher, ids, old, _ = case()
    plain = sdpo_loss(student, teacher, alpha=0.5)
    clipped = sdpo_loss(student, teacher, ids, alpha=0.5, old_logprobs=old, importance_clip=1.5)
    ratio = (token_logprobs_from_logits(student, ids) - old).exp().clamp(max=1.5).detach()
    torch.testing.assert_close(clipped, plain * ratio)
    gradients = [torch.autograd.grad(x.sum(), student, retain_graph=True)[0] for x in (clipped, plain * ratio)]
    torch.testing.assert_close(*gradients)
    assert (ratio == 1.5).any()
    assert (ratio < 1.5).any()


def test_temperature_divides_both_logits():
    student, teacher, ids, _, _ = case()
    hot = sdpo_loss(student, teacher, ids, alpha=0.5, temperature=2.0)
    torch.testing.assert_close(hot, sdpo_loss(student / 2, teacher / 2, ids, alpha=0.5))


def test_half_precision_logits_are_computed_in_float32():
    student, teacher, ids, _, _ = case()
    half = sdpo_loss(student.bfloat16(), teacher.bfloat16(), ids)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, sdpo_loss(student.bfloat16().float(), teacher.bfloat16().float(), ids))


def test_what_is_missing_is_named():
    student, teacher, ids, _, _ = case()
    with pytest.raises(ValueError, match="ids"):
        sdpo_loss(student, teacher, alpha=None)
    with pytest.raises(ValueError, match="old_logprobs"):
        sdpo_loss(student, teacher, ids, importance_clip=2.0)
