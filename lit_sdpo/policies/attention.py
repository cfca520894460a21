"""Let an unmodified Transformers model attend with a function of ours, and say which models that cannot serve.

One function is registered with Transformers' attention interface; it asks whatever is active (a rollout's key-value
cache, a packed batch) for the attention of each layer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

log = logging.getLogger(__name__)

ATTENTION = "lit_sdpo"
"""Name under which the attention function is registered."""


class Attention(Protocol):
    """Computes the attention of one layer after the other."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of queries [B, H, T, D] over keys and values [B, H', T, D]; gives [B, T, H, D]."""


class UnsupportedModelError(Exception):
    """The model asks for something that plain causal attention does not compute."""


_active: ContextVar[tuple[PreTrainedModel, Attention]] = ContextVar("active")


@contextmanager
def attending(model: PreTrainedModel, attention: Attention) -> Iterator[None]:
    """Let the model and its submodels attend through ``attention``; put back what was there before."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    token = _active.set((model, attention))
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        _active.reset(token)
        for config, implementation in before:
            config._attn_implementation = implementation


def recomputation_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a checkpointed layer's forward and of its recomputation, which attends as its forward did.

    Give it to :func:`torch.utils.checkpoint.checkpoint` as ``context_fn``.
    """
    active = _active.get(None)
    return nullcontext(), nullcontext() if active is None else attending(*active)


def obstacle(model: PreTrainedModel, length: int) -> str | None:
    """Why plain causal attention cannot serve this model for ``length`` tokens, as far as its config tells."""
    config = model.config.get_text_config()
    if not model._can_set_attn_implementation() or not getattr(model, "_supports_attention_backend", False):
        return "its attention implementation cannot be set"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of type {', '.join(sorted(other))}"
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds or getattr(config, "layer_types", None) is None
    if slides and window is not None and window < length:
        return f"its sliding window of {window} tokens is shorter than prompt and completion"
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    return None


@lru_cache
def say_once(message: str) -> None:
    """Log a warning the first time it comes up."""
    log.warning(message)


_HARMLESS = {"position_ids", "use_cache", "sliding_window", "output_attentions", "output_hidden_states", "is_causal"}


# Left out of compiled graphs: what is active is Python's business, and differs from call to call.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attention_function(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What Transformers' models call.

    Raises:
        UnsupportedModelError: If the model passes an option that changes attention, such as soft-capping or sinks.
    """
    unknown = [name for name, given in kwargs.items() if name not in _HARMLESS and given is not None]
    if unknown or dropout:
        raise UnsupportedModelError(f"its attention uses {', '.join(unknown) or 'dropout'}")
    _, attention = _active.get()
    return attention.attend(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None


# No mask function is registered with it: Transformers then builds no mask, as what is active knows every length.
AttentionInterface.register(ATTENTION, _attention_function)
