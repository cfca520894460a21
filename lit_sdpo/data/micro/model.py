"""The small language model of the micro world, before any training."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from lit_sdpo.data.micro.tokenizer import END, MAX_LENGTH, PAD, build_tokenizer


def base_config(
    vocab_size: int,
    hidden_size: int = 96,
    *,
    layers: int = 4,
    heads: int = 4,
    key_value_heads: int = 2,
    eos_token_id: int = 2,
    pad_token_id: int = 3,
) -> Qwen3Config:
    """A Qwen3 of half a million parameters: tied embeddings, feed-forward width three times the hidden size.

    Args:
        vocab_size: Entries of the tokenizer.
        hidden_size: Width; a multiple of ``2 * heads``.
        layers: Decoder layers.
        heads: Attention heads.
        key_value_heads: Key and value heads.
        eos_token_id: The token that ends a turn.
        pad_token_id: The token that fills a batch.
    """
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=hidden_size // heads,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def fresh_model(folder: str | Path, hidden_size: int = 96, seed: int = 0) -> Path:
    """Write a randomly initialised model and its tokenizer, where base training starts.

    Args:
        folder: Where to; made if it does not exist.
        hidden_size: Width of the model.
        seed: Decides the weights. The global random state is left as it was.

    Returns:
        The folder, which ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.
    """
    tokenizer = build_tokenizer()
    vocabulary = tokenizer.get_vocab()
    config = base_config(
        len(tokenizer),
        hidden_size,
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
