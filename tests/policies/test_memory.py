from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_sdpo.errors import UserError
from lit_sdpo.functional import chunked_loss
from lit_sdpo.policies.activations import Shape, moments
from lit_sdpo.policies.load import Lora, load_policy
from lit_sdpo.policies.memory import Block, Placement, StepCount, Window
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import completion_hidden, head
from lit_sdpo.units import GIB

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WINDOW = Window(prompts=3, rows=12, prompt=9, completion=10, read=True, blocks=(Block(3, 12, 9, 10),))


def allocated(run):
    """Most bytes that torch's allocator has handed out at once inside, as the profiler records them."""
    with torch.autograd.profiler.profile(profile_memory=True, use_kineto=True) as recorded:
        run()
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


KINDS = {
    "full": {},
    "lora": {"lora": Lora(rank=4)},
    "bfloat16": {"dtype": "bfloat16"},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["plain", "autocast"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_needs_what_the_allocator_hands_out(tiny, kind, autocast):
    """Prompts and completions of full length; logits are one number a token, so that they hardly count."""
    prompts, rows, shape = 2, 32, Shape(20, 30)
    policy = load_policy(tiny, **KINDS[kind])
    tokens = torch.full((rows, shape.completion), 3)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    # One prompt is shorter by a token, as in what is counted: attention then needs a mask.
    ids = [[5 + n] * (shape.prompt - (n == 0)) for n in range(prompts)]

    def step():
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            hidden = completion_hidden(policy, Sequences([ids[n % prompts] for n in range(rows)], tokens, mask))
            ones = torch.ones(len(hidden))
            loss, _ = chunked_loss(hidden, head(policy).weight, ones, lambda x, _: x[:, 0], chunk_size=1)
        loss.backward()

    step()  # what is made once
    policy.zero_grad()
    found = moments(policy, shape, autocast)
    counted = max(moment.fixed + moment.tokens(prompts, rows) for moment in found)
    assert 0.9 < counted / allocated(step) < 1.1


def test_everything_resident_is_counted(tiny):
    policy = load_policy(tiny, lora=Lora(rank=4))
    method = nn.ModuleDict({"policy": policy, "teacher": nn.Linear(10, 3)})
    count = StepCount(method, policy, WINDOW)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert count.of(1).resident == {
        "weights": 4 * sum(p.numel() for p in policy.parameters()),
        "teacher and other copies": 4 * 33,
        "optimizer": 8 * trained,
    }
    config = policy.config
    states = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert count.of(1).rollouts == {
        "keys and values": (3 * 9 + 12 * 10) * states,
        "logits of a token": 3 * 4 * config.vocab_size * 12,
    }


def test_keys_and_values_of_a_server_are_not_here(tiny):
    policy = load_policy(tiny)
    window = Window(prompts=3, rows=12, prompt=9, completion=10, read=True)
    assert StepCount(policy, policy, window).of(1).rollouts == {}


def test_buckets_hold_gradients_once_more_unless_they_are_the_gradients(tiny):
    policy = load_policy(tiny)
    gradients = 4 * sum(p.numel() for p in policy.parameters())
    plain, copied, viewed = (
        StepCount(policy, policy, WINDOW, placement).of(2)
        for placement in (Placement(), Placement(buckets=True), Placement(buckets=True, bucket_views=True))
    )
    assert copied.peak == plain.peak + gradients
    assert viewed.resident == copied.resident
    assert viewed.peak == plain.peak


@pytest.mark.parametrize("slices", [1, 2, 5, 12])
def test_a_budget_takes_as_few_slices_as_fit(tiny, slices):
    policy = load_policy(tiny)
    count = StepCount(policy, policy, WINDOW)

    def need(number):
        memory = count.of(number)
        return sum(memory.resident.values()) + sum(memory.update.values())

    assert count.slices(need(slices) / GIB) == min(n for n in range(1, 13) if need(n) <= need(slices))
    with pytest.raises(UserError, match=r"needs [\d.]+ GiB"):
        count.slices((min(map(need, range(1, 13))) - 1) / GIB)


@pytest.mark.parametrize("prompts", [1, 2, 5])
@pytest.mark.parametrize("generations", [1, 3, 8])
def test_a_slice_has_the_prompts_of_its_rows(prompts, generations):
    """Rows of a group follow each other, and a slice of whole groups begins with one."""
    rows = prompts * generations
    window = Window(prompts, rows, prompt=7, completion=2, read=False)
    for slices in range(1, rows + 1):
        most, count = window.slice(slices)
        assert count == -(-rows // slices)
        starts = range(0, rows - count + 1, generations if count % generations == 0 else 1)
        assert most == max(len({row // generations for row in range(start, start + count)}) for start in starts)
