from __future__ import annotations

import pytest
import torch

from lit_sdpo.functional import decayed_fisher, ewc_penalty, fisher_diagonal


def test_importance_over_stages_and_the_penalty_by_hand():
    stages = [[[[1.0, 2.0], [3.0]], [[0.0, -2.0], [1.0]]], [[[0.5, 0.5], [0.5]]]]
    fisher = None
    for stage in stages:
        new = fisher_diagonal([torch.tensor(x, dtype=torch.float64) for x in sample] for sample in stage)
        fisher = new if fisher is None else decayed_fisher(fisher, new, gamma=0.5)
    assert [x.tolist() for x in fisher] == [[0.5, 2.25], [2.75]]
    weights = [torch.tensor([1.0, 2.0]).double().requires_grad_(), torch.tensor([3.0]).double().requires_grad_()]
    penalty = ewc_penalty(weights, [torch.tensor([0.0, 4.0]), torch.tensor([1.0])], fisher, strength=3.0)
    assert penalty.item() == pytest.approx(1.5 * (0.5 * 1 + 2.25 * 4 + 2.75 * 4))
    penalty.backward()
    assert [x.grad.tolist() for x in weights] == [[3 * 0.5, -3 * 2.25 * 2], [3 * 2.75 * 2]]


def test_squares_are_averaged_not_gradients():
    opposite = [[torch.tensor([1.0])], [torch.tensor([-1.0])]]
    assert fisher_diagonal(opposite)[0].item() == 1


def test_samples_come_one_by_one_and_stay_as_they_are():
    alive = []

    def samples():
        for n in range(3):
            alive.append(torch.full((2,), float(n + 1), dtype=torch.float64))
            yield [alive[-1]]

    assert fisher_diagonal(samples())[0].tolist() == pytest.approx([14 / 3] * 2)
    assert [x[0].item() for x in alive] == [1, 2, 3]


def test_rounded_gradients_are_squared_in_float32():
    (fisher,) = fisher_diagonal([[torch.tensor([1e-25]).bfloat16()]] * 2)
    assert fisher.dtype == torch.float32
    assert ewc_penalty([torch.ones(1).bfloat16()], [torch.zeros(1)], [torch.ones(1)], 2.0).dtype == torch.float32


def test_neither_anchor_nor_importance_get_a_gradient():
    weight, anchor, fisher = (torch.ones(2, requires_grad=True) for _ in range(3))
    ewc_penalty([weight], [anchor], [fisher], 1.0).backward()
    assert anchor.grad is fisher.grad is None
    assert weight.grad.tolist() == [0, 0]


def test_no_weights_and_no_strength_cost_nothing():
    assert ewc_penalty([], [], [], 1.0).item() == 0
    assert ewc_penalty([torch.ones(1)], [torch.zeros(1)], [torch.ones(1)], 0.0).item() == 0


def test_mistakes():
    one = [torch.ones(1)]
    for call, message in [
        (lambda: fisher_diagonal([]), "at least one sample"),
        (lambda: fisher_diagonal([one, one * 2]), "zip"),
        (lambda: decayed_fisher(one, one, 1.1), "gamma"),
        (lambda: decayed_fisher(one, one * 2, 0.9), "zip"),
        (lambda: ewc_penalty(one, one, one, -1.0), "strength"),
        (lambda: ewc_penalty(one, one * 2, one, 1.0), "zip"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
