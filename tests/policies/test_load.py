from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config

from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import Lora, end_token_ids, load_policy, load_tokenizer, render, render_all, resolve

# PEFT 0.21 asks for it by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def folder(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_micro_is_the_shipped_model():
    assert (Path(resolve("micro")) / "config.json").is_file()
    assert load_tokenizer("micro").chat_template


def test_a_hub_name_is_left_as_it_is():
    assert resolve("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(UserError, match="no folder"):
        load_policy(name)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        load_tokenizer(str(tmp_path))


def test_weights_are_those_of_the_files_in_train_mode(tiny):
    policy = load_policy(tiny)
    assert policy.training
    assert policy.dtype == torch.float32
    assert torch.equal(policy.model.norm.weight, load_policy(tiny).model.norm.weight)


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
def test_dtype(tiny, dtype, expected):
    assert load_policy(tiny, dtype=dtype).dtype == expected


def test_random_weights_come_from_the_global_generator(tiny):
    made = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made.append(load_policy(tiny, random_weights=True, config_overrides={"hidden_size": 16}))
    weights = [policy.model.embed_tokens.weight for policy in made]
    assert weights[0].shape[1] == 16
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_overrides_that_contradict_the_rest_are_explained(tmp_path):
    Qwen3Config(num_hidden_layers=4, layer_types=["full_attention"] * 4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"num_hidden_layers.*layer.types") as caught:
        load_policy(str(tmp_path), random_weights=True, config_overrides={"num_hidden_layers": 2})
    assert caught.value.where == "model.config_overrides"


def test_overrides_need_random_weights(tiny):
    with pytest.raises(UserError, match=r"model\.config_overrides"):
        load_policy(tiny, config_overrides={"hidden_size": 16})


def test_files_that_hold_no_weights_are_named(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="cannot load"):
        load_policy(str(folder))


def test_lora_trains_adapters_alone(tiny):
    policy = load_policy(tiny, lora=Lora(rank=2, alpha=4))
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(policy.eval()(ids).logits, load_policy(tiny).eval()(ids).logits)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_gradient_checkpointing_changes_no_gradient(tiny, lora):
    gradients = []
    for on in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy = load_policy(tiny, gradient_checkpointing=on, lora=lora)
        assert any(getattr(module, "gradient_checkpointing", False) for module in policy.modules()) == on
        policy(torch.arange(9)[None], use_cache=False).logits.square().mean().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_folder_without_a_tokenizer_is_named(folder):
    for path in [*folder.glob("tokenizer*"), *folder.glob("*.jinja")]:
        path.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(str(folder))


def test_g08_a_tokenizer_needs_a_template_and_an_end_token(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_tokenizer(str(folder))
    tokenizer = load_tokenizer("micro")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="no end token"):
        load_tokenizer(str(folder))


def test_g05_padding_falls_back_to_the_end_token(folder):
    tokenizer = load_tokenizer("micro")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token_id == tokenizer.eos_token_id


def test_g05_a_completion_ends_at_any_of_the_end_tokens(tiny):
    policy, tokenizer = load_policy(tiny), load_tokenizer(tiny)
    assert end_token_ids(policy, tokenizer) == sorted({tokenizer.eos_token_id, *range(10, len(tokenizer), 5)})
    for configured in (None, 7):
        policy.generation_config.eos_token_id = configured
        expected = {tokenizer.eos_token_id} | ({7} if configured else set())
        assert end_token_ids(policy, tokenizer) == sorted(expected)


def test_a_prompt_ends_where_the_answer_begins():
    tokenizer = load_tokenizer("micro")
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"}]
    assert tokenizer.decode(render(tokenizer, chat)) == "<|user|>Be brief.\nQ?<|assistant|>"
    tokenizer.chat_template = "{{ messages[0]['content'] }}{{ mood }}"
    assert tokenizer.decode(render(tokenizer, chat, {"mood": "!"})) == "Be brief.!"


def test_many_prompts_are_rendered_as_one_by_one():
    tokenizer = load_tokenizer("micro")
    chats = [[{"role": "user", "content": "what? " * n}] for n in range(4)]
    assert render_all(tokenizer, chats) == [render(tokenizer, chat) for chat in chats]
    assert render_all(tokenizer, []) == []
