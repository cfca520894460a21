from __future__ import annotations

import torch

from lit_sdpo.policies.load import load_policy, load_tokenizer, render
from tests.modules.test_base import Record
from tests.training import Watch, assert_close_gradients, fit, method, row_logits, step_gradient, toy_data


def test_the_gradient_is_that_of_the_references_likelihood(tmp_path, tiny):
    watch, record = Watch(), Record()
    gradient, _ = step_gradient(tmp_path, "sft", tiny, watch, record, slots=2)
    policy, tokenizer = load_policy(tiny).double(), load_tokenizer(tiny)
    total, tokens = torch.zeros(()), 0
    for row in watch.seen[0]["rollouts"].rows:
        ids = torch.tensor([*tokenizer.encode(row.reference), tokenizer.eos_token_id])
        logprobs = row_logits(policy, render(tokenizer, row.messages), ids.tolist()).log_softmax(-1)
        total, tokens = total - logprobs.gather(-1, ids[:, None]).sum(), tokens + len(ids)
    loss = total / tokens
    loss.backward()
    assert_close_gradients(gradient, {name: p.grad for name, p in policy.named_parameters()})
    assert abs(record.logged[0]["train/loss"] - float(loss.detach())) < 1e-4


def test_nothing_is_sampled_and_the_loss_falls(tmp_path, tiny):
    record, watch = Record(), Watch()
    module = method("sft", tiny, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2))
    fit(tmp_path, module, toy_data(steps=12), record, watch)
    assert record.logged[-1]["train/loss"] < 0.7 * record.logged[0]["train/loss"]
    assert not any(entry["rollouts"].verdicts for entry in watch.seen)
