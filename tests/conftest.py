from __future__ import annotations

import logging

import pytest
import torch
from transformers import GenerationConfig, Qwen3ForCausalLM

from lit_sdpo.data.micro.model import base_config
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import load_tokenizer
from lit_sdpo.rewards.sandbox.sandbox import Sandbox


@pytest.fixture(scope="session", autouse=True)
def lightning_is_heard():
    """Lightning's log reaches ``caplog``, which it does only where a handler was there when it was imported."""
    import lightning.pytorch as pl

    logging.getLogger(pl.__name__).propagate = True


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a random Qwen3 with the micro tokenizer; one token in five ends a completion, so that lengths vary."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = load_tokenizer("micro")
    config = base_config(len(tokenizer), 32, layers=2, eos_token_id=tokenizer.eos_token_id, pad_token_id=3)
    config.initializer_range = 0.2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    ends = [tokenizer.eos_token_id, *range(10, len(tokenizer), 5)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def bubblewrap():
    """A sandbox in bubblewrap; tests that need it are skipped where it cannot run."""
    sandbox = Sandbox("bubblewrap")
    try:
        sandbox.prepare()
    except UserError as error:
        pytest.skip(str(error))
    return sandbox
