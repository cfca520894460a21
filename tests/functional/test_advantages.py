from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_sdpo.functional import distillation_advantages, group_advantages

KINDS = ["std", "none", "loo", "batch_std"]
rows = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 0.25, -2.0, 0.1, math.nan]), st.integers(-3, 3)), min_size=1, max_size=12
)


def by_loops(rewards, groups, kind, eps):
    known = [r for r in rewards if not math.isnan(r)]
    out = []
    for i, (r, g) in enumerate(zip(rewards, groups, strict=True)):
        group = [x for x, h in zip(rewards, groups, strict=True) if h == g and not math.isnan(x)]
        others = [x for j, (x, h) in enumerate(zip(rewards, groups, strict=True)) if h == g and j != i and x == x]
        if math.isnan(r) or len(group) == 1 or len(set(group)) == 1:
            out.append(0.0)
        elif kind == "loo":
            out.append(r - statistics.mean(others))
        else:
            spread = {"std": lambda g=group: statistics.stdev(g) + eps, "none": lambda: 1.0}
            out.append((r - statistics.mean(group)) / spread.get(kind, lambda: statistics.stdev(known) + eps)())
    return out


@settings(deadline=None, max_examples=60)
@given(rows, st.sampled_from(KINDS))
def test_against_loops(rows, kind):
    rewards, groups = zip(*rows, strict=True)
    got = group_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), kind, eps=1e-4)
    np.testing.assert_allclose(got.numpy(), by_loops(rewards, groups, kind, 1e-4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_r03_equal_rewards_give_exactly_zero(kind):
    """The mean of three times 0.1 in float32 is not 0.1; a std of 1e-9 would turn the difference into an advantage."""
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.7, 0.7, 0.7, 0.7, 0.3])
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    assert (group_advantages(rewards, groups, kind) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_abstentions_change_no_other_row(kind):
    rewards, groups = torch.tensor([1.0, 0.0, 0.5, 0.0]), torch.tensor([0, 0, 0, 1])
    more = torch.cat([rewards, torch.tensor([math.nan, math.nan])])
    got = group_advantages(more, torch.cat([groups, torch.tensor([0, 5])]), kind)
    torch.testing.assert_close(got[:4], group_advantages(rewards, groups, kind))
    assert (got[4:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_all(kind):
    assert group_advantages(torch.empty(0), torch.empty(0, dtype=torch.long), kind).shape == (0,)


def test_unknown_normalisation():
    with pytest.raises(ValueError, match="unknown"):
        group_advantages(torch.zeros(1), torch.zeros(1, dtype=torch.long), "mean")


def test_a_teachers_opinion_by_hand():
    logprobs, teacher = torch.tensor([[-1.0, -3.0, -2.0, 7.0]]), torch.tensor([[-0.5, -9.0, -2.0, math.nan]])
    mask = torch.tensor([[True, True, True, False]])
    assert distillation_advantages(logprobs, teacher, mask, 2.0).tolist() == [[1.0, -12.0, 0.0, 0.0]]
    assert distillation_advantages(logprobs, teacher, mask, 2.0, clip=0.25).tolist() == [[0.5, -0.5, 0.0, 0.0]]


def test_a_token_that_the_teacher_forbids_is_bounded_by_the_clip_alone():
    logprobs, teacher = torch.tensor([-1.0]), torch.tensor([-torch.inf])
    assert distillation_advantages(logprobs, teacher).item() == -math.inf
    assert distillation_advantages(logprobs, teacher, clip=5.0).item() == -5


def test_the_policy_gradient_with_a_teachers_opinion_is_that_of_the_kl():
    logits, teacher = torch.randn(2, 6, dtype=torch.float64)
    logits.requires_grad_()
    student, teacher = logits.log_softmax(-1), teacher.log_softmax(-1)
    advantages = distillation_advantages(student, teacher, coefficient=0.7)
    assert not advantages.requires_grad
    surrogate = -(student.detach().exp() * advantages * student).sum()
    (found,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(0.7 * (student.exp() * (student - teacher)).sum(), logits)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_that_leaves_nothing(clip):
    with pytest.raises(ValueError, match="clip"):
        distillation_advantages(torch.zeros(1), torch.zeros(1), clip=clip)
