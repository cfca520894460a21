"""What a Lightning module holds, of this package or of another: its language model, tokenizer and template options.

These are looked for by name, here alone, so that callbacks work with modules that know nothing of this package.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import nn
from transformers import PreTrainedConfig


def policy_in(module: pl.LightningModule) -> Any:
    """The language model: the attribute ``policy``, else ``model``; ``None`` where neither is there."""
    found = [getattr(module, name, None) for name in ("policy", "model")]
    return next((each for each in found if isinstance(each, nn.Module)), None)


def tokenizer_in(module: pl.LightningModule) -> Any:
    """The attribute ``tokenizer``, or ``None``."""
    return getattr(module, "tokenizer", None)


def template_options_in(module: pl.LightningModule) -> dict[str, Any] | None:
    """Further arguments of the chat template: the attribute ``chat_template_options``, or ``None``."""
    return getattr(module, "chat_template_options", None)


def adapted(policy: Any) -> bool:
    """Whether a model is a base under adapters of PEFT."""
    return hasattr(policy, "peft_config")


def positions(policy: Any) -> int | None:
    """Tokens that a model can read at once, as its configuration says; ``None`` where it does not."""
    config = getattr(policy, "config", None)
    if not isinstance(config, PreTrainedConfig):
        return None
    own = config.get_text_config()
    found = [getattr(own, name, None) for name in ("max_position_embeddings", "n_positions", "n_ctx")]
    return next((int(number) for number in found if number is not None), None)
