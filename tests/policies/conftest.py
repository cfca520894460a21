"""Small random models of many architectures."""

from __future__ import annotations

import pytest
import torch
import transformers

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.15,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
COMMON = {name: SHAPE[name] for name in SHAPE if name.endswith("_id") or name in ("vocab_size", "initializer_range")}
MODELS = {
    "qwen3": ("Qwen3", "ForCausalLM", SHAPE),
    "llama-tied": ("Llama", "ForCausalLM", SHAPE | {"tie_word_embeddings": True}),
    "mistral": ("Mistral", "ForCausalLM", SHAPE | {"sliding_window": None}),
    "mistral-sliding": ("Mistral", "ForCausalLM", SHAPE | {"sliding_window": 6}),
    "gemma2": ("Gemma2", "ForCausalLM", SHAPE | {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    "olmo2": ("Olmo2", "ForCausalLM", SHAPE),
    "olmo3": ("Olmo3", "ForCausalLM", SHAPE | {"sliding_window": 64}),
    "granite": ("Granite", "ForCausalLM", SHAPE | {"logits_scaling": 0.5, "attention_multiplier": 0.2}),
    "cohere": ("Cohere", "ForCausalLM", {k: v for k, v in SHAPE.items() if k != "head_dim"} | {"logit_scale": 0.3}),
    "gpt2": ("GPT2", "LMHeadModel", COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "bloom": ("Bloom", "ForCausalLM", COMMON | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    family, suffix, options = MODELS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = getattr(transformers, family + suffix)(getattr(transformers, f"{family}Config")(**options))
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() == 1:  # random norms and biases, so that a forgotten one shows
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()
