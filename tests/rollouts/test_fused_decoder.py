from __future__ import annotations

import copy

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from lit_sdpo.rollouts import fused_decoder
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.fused_decoder import fusible
from tests.rollouts.engines.test_native import MODELS, SHAPE, assert_same, build, generate

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

#: Granite's multipliers are 1 here.
FUSED = {"granite", "qwen3", "qwen3-tied", "qwen3-eager", "llama", "mistral", "mistral-wide", "mistral-sliding"}


def plainly(model, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr("lit_sdpo.rollouts.engines.native.fusible", lambda model: False)
        return generate(model, **options)


@pytest.mark.parametrize("name", MODELS)
def test_only_models_that_a_step_reproduces_are_fused(name):
    assert fusible(build(name)) == (name in FUSED)


@pytest.mark.parametrize("name", sorted(FUSED))
@pytest.mark.parametrize("options", [{}, {"max_new_tokens": 80, "end_ids": []}, {"temperature": 0.7, "top_k": 5}])
def test_a_fused_step_draws_what_the_model_draws(name, options, monkeypatch):
    model = build(name)
    assert_same(generate(model, **options), plainly(model, monkeypatch, **options))


def test_biases_are_served(monkeypatch):
    torch.manual_seed(0)
    shape = {k: v for k, v in SHAPE.items() if k != "head_dim"}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.bias.normal_()
            layer.self_attn.k_proj.bias.normal_()
    assert fusible(model)
    assert_same(generate(model), plainly(model, monkeypatch))


def test_new_weights_are_used_at_once(monkeypatch):
    model = build("qwen3")
    before = generate(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    after = generate(model)
    assert not torch.equal(before.logprobs, after.logprobs)
    assert_same(after, plainly(model, monkeypatch))


def test_adapters_hooks_and_other_dtypes_take_the_models_own_forward(monkeypatch):
    model = build("qwen3")
    assert fusible(model)
    handle = model.model.layers[0].register_forward_hook(lambda *args: None)
    assert not fusible(model)
    handle.remove()
    assert fusible(model)
    assert not fusible(copy.deepcopy(model).to(torch.bfloat16))
    monkeypatch.setattr(fused_decoder, "MOST_PARAMETERS", 10)
    assert not fusible(model)
    monkeypatch.undo()
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert not fusible(model)


def test_an_adapter_that_has_learned_is_not_forgotten():
    policy = get_peft_model(build("qwen3"), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    before = generate(policy)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert not torch.equal(before.logprobs, generate(policy).logprobs)


def test_repeated_prompts_are_never_fused(monkeypatch):
    monkeypatch.setattr("lit_sdpo.rollouts.engines.native.FusedPrompts", None)
    generate(build("qwen3"), engine=NativeEngine(share_prompts=False))
