"""Updates compute what sampling did: nothing in the model is random in training mode."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from lit_sdpo.errors import UserError
from lit_sdpo.policies.dropout import RANDOM, switch_off_dropout
from lit_sdpo.policies.load import Lora, load_policy, load_tokenizer
from lit_sdpo.rollouts.types import Sampling
from tests.modules.test_base import Record
from tests.policies.conftest import COMMON, MODELS, SHAPE
from tests.training import fit, method, rollout_callback, sgd, toy_data

MORE = {
    "falcon": ("Falcon", "ForCausalLM", COMMON | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", {k: v for k, v in SHAPE.items() if k != "head_dim"}),
    "mixtral": ("Mixtral", "ForCausalLM", SHAPE | {"num_local_experts": 4, "router_jitter_noise": 0.5}),
    "opt": (
        "OPT",
        "ForCausalLM",
        COMMON
        | {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
        }
        | {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2, "max_position_embeddings": 64},
    ),
    "starcoder2": ("Starcoder2", "ForCausalLM", {k: v for k, v in SHAPE.items() if k != "head_dim"}),
}
FAMILIES = MODELS | MORE


def build(name):
    family, suffix, options = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**options)
    for key, value in config.to_dict().items():
        if any(part in key for part in RANDOM) and isinstance(value, float) and "classif" not in key:
            setattr(config, key, 0.5)
    torch.manual_seed(0)
    return getattr(transformers, family + suffix)(config).train()


@pytest.mark.parametrize("name", FAMILIES)
def test_training_mode_computes_what_eval_mode_does(name):
    model, ids = build(name), torch.arange(2, 26)[None]
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, model(ids).logits)
        switch_off_dropout(model)
        trained, again = model(ids).logits, model(ids).logits
        assert model.training
        torch.testing.assert_close(trained, model.eval()(ids).logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(trained, again)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """Dropout of 0.1 in three places, as the family has it by default."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = load_tokenizer("micro")
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, pad_token_id=3, **shape)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_the_second_updates_ratio_on_unchanged_weights_is_1(tmp_path, gpt2, kind, caplog):
    record = Record()
    options = {"clip_eps_low": 1e-3, "clip_eps_high": 1e-3} if kind == "grpo" else {}
    with caplog.at_level(logging.INFO):
        module = method(kind, gpt2, optimizer=lambda parameters: sgd(parameters, 0.0), **options)
        rollout = rollout_callback(sampling=Sampling(max_new_tokens=6))
        fit(tmp_path, module, toy_data(steps=2, updates_per_rollout=2), record, rollout=rollout)
    assert module.policy.training
    first, second = record.logged
    assert first["train/loss"] == pytest.approx(second["train/loss"], rel=1e-4, abs=1e-6)
    assert first["train/grad_norm"] == pytest.approx(second["train/grad_norm"], rel=1e-4)
    if kind == "grpo":
        assert first["train/clip_fraction"] == second["train/clip_fraction"] == 0
    else:
        assert second["sdpo/importance_weight"] == pytest.approx(1, abs=1e-4)
    assert "dropout of the model is off (resid_pdrop 0.1" in caplog.text


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_dropout_of_adapters_is_for_those_who_sample_nothing(tmp_path, tiny):
    for kind in ("grpo", "sdpo"):
        with pytest.raises(UserError, match=r"not the one that sampled") as error:
            method(kind, tiny, lora=Lora(rank=2, dropout=0.1))
        assert error.value.where == "model.lora.dropout"
    module = method("sft", tiny, lora=Lora(rank=2, dropout=0.5))
    fit(tmp_path, module, toy_data())
    policy, ids = module.policy.train(), torch.arange(10, 30)[None]
    assert not torch.equal(policy(ids).logits, policy(ids).logits)
    method("grpo", tiny, lora=Lora(rank=2, dropout=0.0))


@pytest.mark.parametrize("share", [-0.1, 1.0, 2])
def test_dropout_is_a_share(share):
    with pytest.raises(UserError, match="from 0 to below 1"):
        Lora(dropout=share)


def test_a_model_without_dropout_says_nothing(tiny, caplog):
    with caplog.at_level(logging.INFO):
        load_policy(tiny)
    assert "dropout" not in caplog.text
