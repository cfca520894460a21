"""Which parameters train, and what becomes of the others."""

from __future__ import annotations

import re

import pytest
import torch

from lit_sdpo.errors import UserError
from lit_sdpo.modules import WeightAnchor
from lit_sdpo.optimizers import MuonAdamW
from lit_sdpo.policies.load import Lora, load_policy
from lit_sdpo.policies.teachers import EMATeacher
from lit_sdpo.policies.train_only import TrainOnly
from tests.training import adamw, fit, lively, method, rollout_callback, toy_data, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def muon(parameters):
    return MuonAdamW(parameters, lr=1e-2)


@pytest.mark.parametrize("optimizer", [adamw, muon])
@pytest.mark.parametrize("patterns", [["self_attn"], [r"gate_proj", r"up_proj"], [r"layers\.1\."]])
def test_only_what_matches_moves_and_is_in_the_optimizer(tmp_path, tiny, patterns, optimizer):
    options = {"train_only": TrainOnly(patterns), "weight_anchor": WeightAnchor(), "optimizer": optimizer}
    module = method("sdpo", tiny, **options)
    module.configure_model()
    before = weights(module)
    made = fit(tmp_path, module, toy_data(["a", "b"]), rollout=rollout_callback(rewards=lively()))
    matching = {name for name in before if any(re.search(pattern, name) for pattern in patterns)}
    assert 0 < len(matching) < len(before)
    assert {name for name, after in weights(module).items() if not torch.equal(before[name], after)} == matching
    held = {id(p) for group in made.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for name, p in module.policy.named_parameters() if name in matching}
    assert {id(p) for p in made.optimizers[0].state} <= held
    assert all(p.grad is None for name, p in module.policy.named_parameters() if name not in matching)


def test_among_adapters_it_chooses_adapters(tmp_path, tiny):
    module = method("sdpo", tiny, lora=Lora(rank=2), teacher=EMATeacher(0.1), train_only=TrainOnly(["q_proj"]))
    module.configure_model()
    training = [name for name, p in module.policy.named_parameters() if p.requires_grad]
    assert len(training) == 4
    assert all("q_proj.lora_" in name and ".default." in name for name in training)


def test_each_name_of_tied_weights_counts(tiny):
    policy = load_policy(tiny)
    assert policy.config.tie_word_embeddings
    TrainOnly(["lm_head"]).apply(policy)
    assert [name for name, p in policy.named_parameters() if p.requires_grad] == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ([], "no pattern"),
        (["("], "no regular expression"),
        (["self_attn", "c_attn"], "'c_attn' matches none of the parameters that train.*self_attn.q_proj"),
    ],
)
def test_patterns_that_choose_nothing_are_refused(tiny, patterns, words):
    with pytest.raises(UserError, match=words):
        TrainOnly(patterns).apply(load_policy(tiny))
