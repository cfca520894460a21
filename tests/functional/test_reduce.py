from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_sdpo.functional import Totals, aggregate, count, ppo_loss, token_weights

AGGREGATIONS = ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "fixed_length"]


def options(aggregation):
    return {"aggregation": aggregation, "fixed_length": 7 if aggregation == "fixed_length" else None}


def by_loops(x, mask, aggregation, fixed_length):
    rows = [[float(v) for v, m in zip(*row, strict=True) if m] for row in zip(x.tolist(), mask.tolist(), strict=True)]
    if aggregation == "fixed_length":
        return sum(map(sum, rows)) / (len(rows) * fixed_length)
    rows = [row for row in rows if row]
    if not rows:
        return 0.0
    if aggregation == "token_mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    sums = [sum(row) / (len(row) if aggregation == "seq_mean_token_mean" else 1) for row in rows]
    return sum(sums) / len(rows)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=7), data=st.data())
def test_any_slices_add_up_to_the_step(aggregation, lengths, data):
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    logp = torch.randn(len(lengths), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    old, advantages = logp + 0.3 * logp.cos(), logp.mean(1)

    def loss_and_gradient(rows, totals):
        x = logp[rows].clone().requires_grad_()
        per_token = ppo_loss(x, old[rows], advantages[rows], mask=mask[rows]).per_token
        loss = aggregate(per_token, mask[rows], totals=totals, **options(aggregation))
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    order = data.draw(st.permutations(range(len(lengths))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=3)))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    totals = Totals(*(sum(x) for x in zip(*(count(mask[part]) for part in parts), strict=True)))
    whole = loss_and_gradient(list(range(len(order))), None)
    slices = [loss_and_gradient(part, totals) for part in parts]
    torch.testing.assert_close(sum(loss for loss, _ in slices), whole[0], rtol=1e-12, atol=1e-14)
    gradient = torch.cat([g for _, g in slices])[torch.tensor(order).argsort()]
    torch.testing.assert_close(gradient, whole[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(deadline=None, max_examples=20)
@given(mask=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_against_loops(aggregation, mask):
    mask = torch.tensor(mask)
    x = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = by_loops(x, mask, **options(aggregation))
    assert aggregate(x, mask, **options(aggregation)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0)])
def test_nothing_active_gives_zero_loss_and_gradient(aggregation, shape):
    x = torch.full(shape, torch.nan, requires_grad=True)
    loss = aggregate(x, torch.zeros(shape, dtype=torch.bool), **options(aggregation))
    loss.backward()
    assert loss == 0
    assert (x.grad == 0).all()


def test_weights_of_ranks_add_up_to_one():
    masks = [torch.rand(3, 6, generator=torch.Generator().manual_seed(s)) > 0.6 for s in range(4)]
    totals = Totals(*(sum(x) for x in zip(*map(count, masks), strict=True)))
    for aggregation in ("token_mean", "seq_mean_token_mean"):
        total = sum(token_weights(m, aggregation, totals=totals, dtype=torch.float64).sum() for m in masks)
        assert total.item() == pytest.approx(1, abs=1e-12)


def test_options_that_do_not_fit():
    mask = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="fixed_length"):
        token_weights(mask, "fixed_length")
    with pytest.raises(ValueError, match="fixed_length"):
        token_weights(mask, "token_mean", fixed_length=3)
    with pytest.raises(ValueError, match="unknown"):
        token_weights(mask, "mean")
