"""Filters against Transformers' own, and what they say of tokens."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lit_sdpo.functional import filtered_logprobs, lowest_kept, nucleus

FILTERS = [
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"top_k": 40, "top_p": 0.9},
    {"top_p": 0.95, "min_p": 0.05},
    {"top_k": 30, "top_p": 0.9, "min_p": 0.02},
    {"top_k": 1},
    {"top_k": 10_000},
    {},
]


def warped(logits, temperature, order, top_k=0, top_p=1.0, min_p=0.0):
    """What Transformers' warpers leave, in any order."""
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    for name in order:
        if name == "top_k" and top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        if name == "top_p" and top_p < 1:
            scores = TopPLogitsWarper(top_p)(None, scores)
        if name == "min_p" and min_p:
            scores = MinPLogitsWarper(min_p)(None, scores)
    return scores


def some_logits(rows=6, vocabulary=300):
    generator = torch.Generator().manual_seed(3)
    spread = torch.linspace(0.5, 4, rows)[:, None]
    return torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * spread


@pytest.mark.parametrize("order", list(itertools.permutations(("top_k", "top_p", "min_p"))), ids="-".join)
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_what_is_kept_is_what_transformers_keeps_in_any_order(filters, temperature, order):
    logits = some_logits()
    scores = warped(logits, temperature, order, **filters)
    kept = logits >= lowest_kept(logits, temperature=temperature, order=order, **filters)
    assert torch.equal(kept, scores > -torch.inf)
    for ids in (logits.argmax(-1), logits.argsort(-1)[:, -5], logits.argmin(-1)):
        found = filtered_logprobs(logits, ids, temperature=temperature, order=order, **filters)
        wanted = scores.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        torch.testing.assert_close(found.filtered, wanted, rtol=1e-9, atol=1e-12)
        full = (logits / temperature).log_softmax(-1)
        torch.testing.assert_close(found.full, full.gather(-1, ids[:, None])[:, 0])
        mass = full.exp().masked_fill(~kept, 0).sum(-1)
        torch.testing.assert_close(found.log_kept_mass.exp(), mass, rtol=1e-9, atol=1e-12)


def test_the_order_matters():
    logits = some_logits()
    orders = (("top_k", "top_p", "min_p"), ("min_p", "top_k", "top_p"))
    counts = [(logits >= lowest_kept(logits, top_p=0.9, min_p=0.05, order=order)).sum() for order in orders]
    assert counts[0] > counts[1]


def test_equals_of_the_last_one_are_kept_with_it():
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    for filters in ({"top_k": 2}, {"top_p": 0.6}):
        found = filtered_logprobs(logits.expand(4, -1), torch.arange(4), **filters)
        assert found.filtered.isfinite().tolist() == [True, True, True, False]
        torch.testing.assert_close(found.filtered[:3].exp().sum(), torch.tensor(1.0))


def test_a_vocabulary_that_one_sort_does_not_cover():
    logits = torch.zeros(2, 5000)
    logits[:, 17] = 0.1
    ordered, index = nucleus(logits, 0.5)
    assert ordered.isfinite().sum(-1).tolist() == [2500, 2500] or abs(int(ordered.isfinite()[0].sum()) - 2500) <= 1
    assert index[:, 0].tolist() == [17, 17]


def test_no_gradient_and_float32():
    logits = some_logits().to(torch.bfloat16).requires_grad_()
    found = filtered_logprobs(logits, logits.argmax(-1), top_p=0.9)
    assert not found.filtered.requires_grad
    assert found.full.dtype == torch.float32
