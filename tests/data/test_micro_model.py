import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_sdpo.data.micro.model import base_config, fresh_model
from lit_sdpo.data.micro.tasks import MicroTask
from lit_sdpo.data.micro.tokenizer import ASSISTANT, END, PAD, USER, build_tokenizer
from lit_sdpo.data.micro.warmstart import WarmStartTask
from lit_sdpo.data.micro.world import DOMAINS, MicroWorld

TOKENIZER = build_tokenizer()


def ids(messages, **options):
    return TOKENIZER.apply_chat_template(messages, return_dict=False, **options)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("text", ["héllo 日本 🙂\t\r\n", "  a  b ,c .", "can 't", "\x00\x7f\x85\u2028", "1234.5"])
def test_awkward_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_vocabulary():
    assert len(TOKENIZER) == TOKENIZER.vocab_size == 800
    assert TOKENIZER.convert_tokens_to_ids([USER, ASSISTANT, END, PAD]) == [0, 1, 2, 3]
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == (END, PAD)
    assert TOKENIZER.tokenize("12345") == list("12345")
    world = "".join(row.messages[0]["content"] + row.reference for row in WarmStartTask().rows("train")[:500])
    assert max(TOKENIZER.encode(world)) < 640


def test_building_it_again_gives_the_same():
    assert build_tokenizer().backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_chat_frame():
    user, system = {"role": "user", "content": "Q"}, {"role": "system", "content": "Be brief."}
    answer = {"role": "assistant", "content": "A"}
    assert TOKENIZER.decode(ids([user], add_generation_prompt=True)) == f"{USER}Q{ASSISTANT}"
    assert TOKENIZER.decode(ids([user, answer])) == f"{USER}Q{ASSISTANT}A{END}"
    assert TOKENIZER.decode(ids([system, user], add_generation_prompt=True)) == f"{USER}Be brief.\nQ{ASSISTANT}"
    turns = f"{USER}S\nQ{ASSISTANT}A{END}{USER}Q{ASSISTANT}"
    chat = [{**system, "content": "S"}, user, answer, user]
    assert TOKENIZER.decode(ids(chat, add_generation_prompt=True)) == turns
    assert TOKENIZER.decode(ids([user, answer]), skip_special_tokens=True) == "QA"


def test_lengths_in_tokens():
    prompts, responses = {}, {}
    for domain in DOMAINS:
        for variant in DOMAINS[domain].variants:
            for world in (MicroWorld(), MicroWorld(format_named="never", wording="shared", wrappers="shared")):
                for row in MicroTask(domain, variant, world).rows("validation")[:200]:
                    key = "prior" if domain == "prior" else variant
                    prompts.setdefault(key, []).append(len(ids(row.messages, add_generation_prompt=True)))
                    responses.setdefault(key, []).append(len(TOKENIZER.encode(row.reference)) + 1)
    ranges = {key: (min(n), max(n)) for key, n in prompts.items()}
    assert 8 <= ranges["train"][0] <= ranges["train"][1] <= 40
    assert 5 <= ranges["prior"][0] <= ranges["prior"][1] <= 16
    assert ranges["ood"][1] <= 48
    assert min(responses["train"]) >= 5
    assert max(responses["train"]) <= 40
    assert max(responses["ood"]) <= 48
    assert 3 <= min(responses["prior"]) <= max(responses["prior"]) <= 12


def test_fresh_model_and_tokenizer_load_back(tmp_path):
    state = torch.get_rng_state()
    folder = fresh_model(tmp_path / "fresh")
    assert torch.equal(torch.get_rng_state(), state)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = "Compute 3 - 3 + 1. Use \\boxed{}. é"
    assert tokenizer.encode(text) == TOKENIZER.encode(text)
    chat = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert prompt[0].tolist() == ids(chat, add_generation_prompt=True)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 3)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (2, 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 504_864 + 160 * 96
    assert model(prompt).logits.shape == (1, prompt.shape[1], 800)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3"


def test_the_seed_decides_the_weights(tmp_path):
    folders = [fresh_model(tmp_path / str(i), hidden_size=32, seed=seed) for i, seed in enumerate((0, 0, 1))]
    first, same, other = (AutoModelForCausalLM.from_pretrained(f).model.embed_tokens.weight for f in folders)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_base_config_follows_the_width():
    config = base_config(800, 64)
    assert (config.head_dim, config.intermediate_size, config.num_hidden_layers) == (16, 192, 4)
    assert (config.num_attention_heads, config.num_key_value_heads, config.tie_word_embeddings) == (4, 2, True)
