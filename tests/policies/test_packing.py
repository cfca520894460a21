from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from transformers import Qwen3Config, Qwen3ForCausalLM

from lit_sdpo.policies.attention import attending, recomputation_contexts, say_once
from lit_sdpo.policies.packing import Packing, Sequences
from lit_sdpo.policies.scoring import completion_hidden, decoder, padded_hidden
from tests.policies.conftest import SHAPE

#: Models whose attention is not plain causal attention for the rows below.
PADDED = {"mistral-sliding", "gemma2", "bloom"}


def sequences(groups, vocabulary=61, seed=0):
    """From (prompt length, completion lengths) of each group; the groups' rows take turns."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randint(0, vocabulary, (count,), generator=generator).tolist()

    rows = [(prompt, n) for size, lengths in groups for prompt in [draw(size)] for n in lengths]
    rows = rows[::2] + rows[1::2]
    lengths = torch.tensor([n for _, n in rows])
    mask = torch.arange(max(int(lengths.max()), 1)) < lengths[:, None]
    ids = torch.tensor(draw(mask.numel())).view(mask.shape)
    return Sequences([prompt for prompt, _ in rows], ids, mask)


UNEVEN = sequences([(5, [7, 1, 4, 9]), (1, [1]), (23, [2, 2, 12]), (2, [1, 1])])


def gradients(policy, hidden):
    policy.zero_grad()
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    loss = (hidden * weight).sum()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in policy.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    "rows",
    [UNEVEN, sequences([(4, [1])]), sequences([(3, [6, 6, 6])]), sequences([(3, [5, 0, 2])])],
    ids=["uneven", "one token", "equal", "an empty completion"],
)
def test_g06_packed_rows_have_the_hidden_states_and_gradients_of_padded_ones(model, rows):
    packed, padded = completion_hidden(model, rows), padded_hidden(decoder(model), rows)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(model, packed), gradients(model, padded), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


def test_models_that_cannot_be_packed_are_padded_and_the_log_says_so_once(model, request, caplog):
    say_once.cache_clear()
    name = request.node.callspec.params["model"]
    with caplog.at_level(logging.WARNING, "lit_sdpo"), torch.no_grad():
        completion_hidden(model, UNEVEN)
        completion_hidden(model, UNEVEN)
    said = [record.getMessage() for record in caplog.records if "padded rows" in record.getMessage()]
    assert len(said) == (name in PADDED), said


def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(Qwen3Config(**SHAPE))


groups = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(0, 20), min_size=1, max_size=5)), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(groups, st.integers(0, 99))
def test_any_groups_can_be_packed(some, seed):
    rows = sequences(some, seed=seed)
    policy = tiny()
    with torch.no_grad():
        packed, padded = completion_hidden(policy, rows), padded_hidden(decoder(policy), rows)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_each_prompt_stands_once_and_last_tokens_are_left_out():
    packing = Packing(UNEVEN)
    assert len(packing.ids) == 5 + 1 + 23 + 2 + (6 + 0 + 3 + 8) + 0 + (1 + 1 + 11)
    assert len(packing.places) == int(UNEVEN.completion_mask.sum())


def test_long_rows_stand_alone(monkeypatch):
    rows = sequences([(9, [8, 8]), (4, [8, 7])])
    policy = tiny()
    with torch.no_grad():
        whole = completion_hidden(policy, rows)
        monkeypatch.setattr("lit_sdpo.policies.scoring.Packing", partial(Packing, mask_elements=1))
        alone = completion_hidden(policy, rows)
    assert len(Packing(rows, mask_elements=1)._blocks) == 2 + 4
    torch.testing.assert_close(alone, whole)


def test_a_checkpointed_layer_attends_in_the_backward_pass_as_in_the_forward_pass():
    policy = tiny()
    packing = Packing(UNEVEN)
    inputs = {"input_ids": packing.ids[None], "position_ids": packing.positions[None], "use_cache": False}
    found = []
    for kept in (True, False):
        with attending(policy, packing):
            run = lambda: decoder(policy)(**inputs).last_hidden_state  # noqa: E731
            hidden = run() if kept else checkpoint(run, use_reentrant=False, context_fn=recomputation_contexts)
        found.append(gradients(policy, hidden))
    assert packing.attended == 3 * 2
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert policy.config._attn_implementation != "lit_sdpo"


def test_under_autocast_packed_rows_are_those_of_padded_ones_to_bfloat16():
    policy = tiny()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        packed, padded = completion_hidden(policy, UNEVEN), padded_hidden(decoder(policy), UNEVEN)
    torch.testing.assert_close(packed, padded, rtol=0.05, atol=0.05)
