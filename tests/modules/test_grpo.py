from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.policies.load import load_policy
from lit_sdpo.rollouts.types import Sampling
from tests.modules.test_base import Record
from tests.training import (
    Toy,
    Watch,
    assert_close_gradients,
    fit,
    method,
    rollout_callback,
    row_logits,
    step_gradient,
    toy_data,
    weights,
)


def advantages_of(rewards, kind):
    """One group's, in plain numbers."""
    known = [r for r in rewards if not math.isnan(r)]
    mean = sum(known) / len(known)
    spread = math.sqrt(sum((r - mean) ** 2 for r in known) / (len(known) - 1)) + 1e-6 if kind == "std" else 1.0
    return [0.0 if math.isnan(r) else (r - mean) / spread for r in rewards]


@pytest.mark.parametrize("kind", ["none", "std"])
@pytest.mark.parametrize("abstain", [False, True])
def test_the_first_step_is_the_plain_policy_gradient(tmp_path, tiny, kind, abstain):
    score = (lambda text: None if len(text) % 5 == 0 else float(len(text) % 2)) if abstain else Toy().score
    watch, record = Watch(), Record()
    data = toy_data([Toy(score=score)])
    gradient, _ = step_gradient(tmp_path, "grpo", tiny, watch, record, data=data, slots=2, advantage=kind)
    rollouts = watch.seen[0]["rollouts"]
    assert bool(rollouts.rewards.isnan().any()) == abstain
    policy = load_policy(tiny).double()
    rewards, lengths = rollouts.rewards.tolist(), rollouts.completions.lengths.tolist()
    tokens = sum(n for n, r in zip(lengths, rewards, strict=True) if not math.isnan(r))
    total = torch.zeros(())
    for group in range(3):
        for n, advantage in enumerate(advantages_of(rewards[4 * group : 4 * group + 4], kind)):
            ids = rollouts.completions.ids[4 * group + n, : lengths[4 * group + n]]
            logprobs = row_logits(policy, rollouts.prompt_ids[group], ids.tolist()).log_softmax(-1)
            total = total - advantage * logprobs.gather(-1, ids[:, None]).sum() / tokens
    total.backward()
    assert_close_gradients(gradient, {name: p.grad for name, p in policy.named_parameters()})
    assert record.logged[0]["train/clip_fraction"] == 0


def test_updates_on_the_same_rollouts_are_clipped(tmp_path, tiny):
    record = Record()
    module = method("grpo", tiny, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=20.0))
    fit(tmp_path, module, toy_data(steps=2, updates_per_rollout=2), record)
    assert record.logged[0]["train/clip_fraction"] == 0
    assert record.logged[1]["train/clip_fraction"] > 0


def test_a_temperature_of_sampling_is_that_of_the_loss(tmp_path, tiny):
    """Sampled and scored at one temperature, the second update's ratio at unchanged weights is 1."""
    record = Record()
    module = method("grpo", tiny, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0), clip_eps_low=1e-3)
    module.configure_model()
    rollout = rollout_callback(sampling=Sampling(max_new_tokens=6, temperature=0.7))
    fit(tmp_path, module, toy_data(steps=2, updates_per_rollout=2), record, rollout=rollout)
    assert [logged["train/clip_fraction"] for logged in record.logged] == [0, 0]
    assert record.logged[0]["train/loss"] == pytest.approx(record.logged[1]["train/loss"], abs=1e-6)


def test_dropping_flat_groups_raises_the_weight_of_the_others(tmp_path, tiny):
    calls = iter(range(10**6))

    def score(text):
        n = next(calls) % 12
        return 1.0 if n < 4 else float(n % 2)

    kept, _ = step_gradient(tmp_path, "grpo", tiny, data=toy_data([Toy(score=score)]))
    watch = Watch()
    calls = iter(range(10**6))
    dropped, _ = step_gradient(tmp_path, "grpo", tiny, watch, data=toy_data([Toy(score=score)]), drop_flat_groups=True)
    lengths = watch.seen[0]["rollouts"].completions.lengths
    factor = float(lengths.sum() / lengths[4:].sum())
    assert_close_gradients(dropped, {name: factor * g for name, g in kept.items()})


def test_a_kl_penalty_starts_at_zero_and_is_paid_for_moving_away(tmp_path, tiny):
    flat, moving = method("grpo", tiny, kl_beta=0.5), method("grpo", tiny, kl_beta=0.1)
    flat.configure_model()
    before, record = weights(flat), Record()
    fit(tmp_path, flat, toy_data([Toy(score=lambda text: 0.0)]))
    for name, value in weights(flat).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    fit(tmp_path, moving, toy_data(steps=3), record)
    paid = [logged["train/loss/base_kl"] for logged in record.logged]
    assert paid[0] == pytest.approx(0, abs=1e-6)
    assert min(paid[1:]) > 1e-4
    base = dict(moving.terms["base_kl"].base.model.named_parameters())
    assert all(torch.equal(base[name], value) for name, value in before.items())
