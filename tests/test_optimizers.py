from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lit_sdpo.optimizers import (
    MuonAdamW,
    PaperAdamW,
    SDPOAdamW,
    WarmupConstant,
    WarmupLinearDecay,
    orthogonalise,
)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.down(torch.tanh(self.up(self.embed(ids)))))


IDS, TARGETS = torch.arange(7), torch.tensor([0, 1, 2, 0, 1, 2, 0])


def train(model, optimizer, steps, scheduler=None):
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(IDS), TARGETS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        losses.append(loss.item())
    return losses


def muon(model, **options):
    return MuonAdamW(model.named_parameters(), **({"lr": 0.02} | options))


def test_the_paper_s_numbers_are_the_defaults():
    weight = [nn.Parameter(torch.ones(1))]
    for made, rate in ((PaperAdamW(weight), 1e-6), (SDPOAdamW(weight), 1e-5)):
        assert (made.defaults["lr"], made.defaults["weight_decay"]) == (rate, 0.01)


def test_only_matrices_inside_the_network_get_muon():
    model = Toy()
    names = {id(p): name for name, p in model.named_parameters()}
    first, second = ({names[id(p)] for p in group["params"]} for group in muon(model).param_groups)
    assert first == {"up.weight", "down.weight"}
    assert second == {"embed.weight", "up.bias", "down.bias", "head.weight", "head.bias"}


def test_the_loss_falls():
    model = Toy()
    losses = train(model, muon(model), 60)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_vectors_move_as_in_torch_s_adamw(decay):
    """Same gradients for both: all parameters named so that Muon takes none."""
    ours, theirs = Toy(), Toy()
    named = [(f"head.{name}", p) for name, p in ours.named_parameters()]
    a = MuonAdamW(named, lr=0.01, weight_decay=decay, betas=(0.8, 0.9))
    b = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=decay, betas=(0.8, 0.9))
    assert train(ours, a, 20) == pytest.approx(train(theirs, b, 20), rel=1e-4)


def test_a_first_muon_step_is_orthogonal_and_of_the_stated_size():
    weight = nn.Parameter(torch.zeros(6, 24))
    optimizer = MuonAdamW([("weight", weight)], lr=0.1, weight_decay=0.0)
    weight.grad = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach()) / (0.1 * 0.2 * math.sqrt(24))
    assert bool((values > 0.6).all() and (values < 1.3).all())
    # Against the gradient, along its own singular vectors.
    u, _, v = torch.linalg.svd(weight.grad, full_matrices=False)
    inside = (u.T @ -weight.detach() @ v.T) / (0.1 * 0.2 * math.sqrt(24))
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=0, atol=1e-3)
    assert bool((inside.diagonal() > 0.6).all())


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_orthogonalise_keeps_the_singular_vectors(shape):
    matrix = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    made = orthogonalise(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(
        made, u @ torch.diag_embed((u.mT @ made @ v.mT).diagonal(dim1=1, dim2=2)) @ v, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("after", [1, 3])
def test_a_restored_optimizer_goes_on_exactly(after):
    whole = Toy()
    optimizer = muon(whole)
    schedule = WarmupConstant(optimizer, warmup_steps=4)
    train(whole, optimizer, after, schedule)
    resumed = copy.deepcopy(whole)
    state = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    train(whole, optimizer, 5, schedule)
    second = muon(resumed)
    again = WarmupConstant(second, warmup_steps=4)
    second.load_state_dict(state[0])
    again.load_state_dict(state[1])
    train(resumed, second, 5, again)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_schedule_acts_on_both_groups():
    model = Toy()
    optimizer = muon(model, lr=0.5)
    schedule = WarmupConstant(optimizer, warmup_steps=4)
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [rate for rate, _ in seen] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    assert all(a == b for a, b in seen)


@pytest.mark.parametrize("lr", [0.0, 0.02])
def test_at_rate_zero_nothing_moves(lr):
    model = Toy()
    before = [p.detach().clone() for p in model.parameters()]
    train(model, muon(model, lr=lr, weight_decay=0.5), 2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) == (lr == 0)


def test_parameters_without_a_gradient_are_left_alone():
    model = Toy()
    optimizer = muon(model, weight_decay=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert not optimizer.state
    model.up.weight.grad = torch.ones_like(model.up.weight)
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert [name for (name, _), m in zip(model.named_parameters(), moved, strict=True) if m] == ["up.weight"]


def test_a_closure_runs_with_gradients():
    model = Toy()
    optimizer = muon(model)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(IDS), TARGETS)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


def rates(schedule, steps, **options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    made, found = schedule(optimizer, **options), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def test_schedules():
    assert rates(WarmupConstant, 12) == pytest.approx([n / 10 for n in range(1, 11)] + [1.0, 1.0])
    assert rates(WarmupConstant, 3, warmup_steps=0) == [1.0, 1.0, 1.0]
    decay = rates(WarmupLinearDecay, 11, total_steps=10, warmup_steps=2, decay_share=0.5)
    assert decay == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.0])
