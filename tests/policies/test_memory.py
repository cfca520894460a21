from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_sdpo.policies.load import Lora, load_policy
from lit_sdpo.policies.memory import activation_bytes, step_memory
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import completion_hidden

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def saved(policy, rows=32, length=40):
    """Bytes per token that a real forward pass keeps."""
    ids = torch.full((rows, length), 3)
    known = {p.untyped_storage()._cdata: 0 for p in policy.parameters()}
    alive = []

    def keep(tensor):
        known.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes())
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        completion_hidden(policy, Sequences([[5, 6, 7]] * rows, ids, torch.ones_like(ids, dtype=torch.bool)))
    return sum(known.values()) / (3 + rows * (length - 1))


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_activations_are_those_of_a_real_forward_pass(tiny, lora):
    policy = load_policy(tiny, lora=lora)
    per_token, recomputed = activation_bytes(policy)
    assert recomputed == 0
    assert 0.85 * saved(policy) < per_token <= saved(policy)


def test_gradient_checkpointing_keeps_one_state_a_layer_and_recomputes_one_layer(tiny):
    plain, _ = activation_bytes(load_policy(tiny))
    policy = load_policy(tiny, gradient_checkpointing=True)
    kept, recomputed = activation_bytes(policy)
    config = policy.config
    assert kept == 4 * config.num_hidden_layers * config.hidden_size
    assert recomputed == plain // config.num_hidden_layers
    assert all(m.gradient_checkpointing for m in policy.modules() if hasattr(m, "gradient_checkpointing"))


def test_everything_resident_is_counted(tiny):
    policy = load_policy(tiny, lora=Lora(rank=4))
    method = nn.ModuleDict({"policy": policy, "teacher": nn.Linear(10, 3)})
    memory = step_memory(method, policy)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert memory.weights == 4 * sum(p.numel() for p in policy.parameters())
    assert memory.copies == 4 * 33
    assert (memory.gradients, memory.optimizer) == (4 * trained, 8 * trained)
    assert memory.head_gradient == 0
    assert (
        load_policy(tiny).get_output_embeddings().weight.numel() * 4
        == step_memory(method, load_policy(tiny)).head_gradient
    )
    assert memory.cache == 2 * 4 * policy.config.num_hidden_layers * (
        policy.config.num_key_value_heads * policy.config.head_dim
    )


@pytest.mark.parametrize("tokens", [1, 100, 20_000, 10**6])
def test_as_many_tokens_fit_as_were_asked_for(tiny, tokens):
    policy = load_policy(tiny)
    memory = step_memory(policy, policy)
    budget = memory.resident + memory.update(tokens)
    found = memory.tokens_within(budget)
    assert found == tokens
    assert memory.tokens_within(budget - 1) == tokens - 1
    assert memory.tokens_within(memory.resident) == 0


@pytest.mark.parametrize("tokens", [1, 10**6])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_of_a_single_slice_take_the_place_of_its_activations(tiny, tokens, gradient_checkpointing):
    policy = load_policy(tiny, gradient_checkpointing=gradient_checkpointing)
    memory = step_memory(policy, policy)
    several = memory.update(tokens) - memory.head_gradient
    one = memory.update(tokens, slices=1) - memory.head_gradient
    assert one == max(several - memory.gradients, memory.gradients + tokens * memory.recomputed)
