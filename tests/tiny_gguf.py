"""A random Llama with a tokenizer of its own, once as a folder of Transformers and once as a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny_model import make_tokenizer

HEADS, KEY_HEADS, LAYERS = 4, 2, 3
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def save_tiny_llama(folder: Path, *, tied: bool) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|start|>"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=1024,
        rms_norm_eps=2.0**-17,  # a GGUF file holds it in float32
        initializer_range=0.1,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # random norms, so that a forgotten one shows
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_gguf(folder: Path, file: Path, *, kind: str | None = None, **extra: object) -> Path:
    """The model of a folder as a GGUF file, by the rules of llama.cpp's own converter.

    Args:
        folder: See :func:`save_tiny_llama`.
        file: The file to write.
        kind: How matrices are stored, such as ``Q8_0``; ``None`` for float32.
        extra: Further metadata: strings and numbers; ``rope_freqs`` adds such a tensor.
    """
    gguf = pytest.importorskip("gguf")
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name("Tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_tokenizer(writer, folder, config, extra.pop("tokenizer__ggml__pre", "gpt-2"))
    if extra.pop("rope_freqs", False):
        writer.add_tensor("rope_freqs.weight", torch.ones(config.hidden_size // HEADS // 2).numpy())
    for key, value in extra.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(key.replace("__", "."), value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for old, new in NAMES.items():
            name = name.replace(old, new)
        for part, heads in (("attn_q.", HEADS), ("attn_k.", KEY_HEADS)):
            if part in name:  # pairs of rotated entries stand side by side
                tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        data = tensor.contiguous().numpy()
        if kind is not None and tensor.dim() == 2:
            form = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quantize(data, form), raw_dtype=form)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer, folder: Path, config: LlamaConfig, cut: str) -> None:
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {entry["id"] for entry in told["added_tokens"]}
    tokens = sorted(told["model"]["vocab"], key=told["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in special else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in told["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))
