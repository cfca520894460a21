"""Load a Hugging Face causal language model and its tokenizer, and say clearly what is missing."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lit_sdpo.errors import UserError
from lit_sdpo.policies.attention import recomputation_contexts
from lit_sdpo.policies.compiling import compile_layers
from lit_sdpo.policies.dropout import switch_off_dropout
from lit_sdpo.policies.fused import fuse

#: ``model_name`` of the small model that ships with the package.
MICRO = "micro"
WHERE = "model.model_name"


@dataclass(kw_only=True)
class Lora:
    """Low-rank adapters instead of full-parameter training (the paper trains all parameters).

    Attributes:
        rank: Rank of the update.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: On the adapters' input, in updates; for ``SFT`` only, as completions are sampled without it. Dropout of
            the model itself is off.
        target_modules: Names of the adapted layers; ``all-linear`` for all but the head.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0 <= self.dropout < 1:
            raise UserError(f"{self.dropout} is no share", where="model.lora.dropout", fix="give one from 0 to below 1")


def resolve(model_name: str) -> str:
    """Folder or Hub name to load from: the shipped model for ``micro``, else the name itself."""
    if model_name == MICRO:
        return str(files("lit_sdpo") / "assets" / "micro")
    looks_local = model_name.startswith((".", "/", "~"))
    path = Path(model_name).expanduser()
    if looks_local and not path.is_dir():
        raise UserError(f"no folder {model_name!r}", where=WHERE, fix="give a model folder, a Hub name or 'micro'")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(
            f"{model_name!r} has no config.json", where=WHERE, fix="give a folder that holds a Hugging Face model"
        )
    return str(path) if path.is_dir() else model_name


def load_tokenizer(model_name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer; it needs an end token and a chat template.

    Raises:
        UserError: There is no tokenizer, no end token or no chat template.
    """
    source = resolve(model_name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{model_name!r} has no tokenizer that can be loaded ({_first_line(error)})",
            where=WHERE,
            fix="save the tokenizer beside the model (tokenizer.save_pretrained)",
        ) from error
    if not tokenizer.encode("a", add_special_tokens=False):  # without its files, Transformers makes an empty one
        raise UserError(
            f"{model_name!r} has no tokenizer with a vocabulary",
            where=WHERE,
            fix="save the tokenizer beside the model (tokenizer.save_pretrained)",
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {model_name!r} has no end token",
            where=WHERE,
            fix="set eos_token in tokenizer_config.json",
        )
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {model_name!r} has no chat template",
            where=WHERE,
            fix="save a chat_template.jinja beside it",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    model_name: str,
    *,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
    attn_implementation: str | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    lora: Lora | None = None,
    random_weights: bool = False,
    config_overrides: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Load the model in training mode, in which its own dropout is off and only an adapter's acts.

    Args:
        model_name: Folder, Hub name or ``micro``.
        dtype: Of the weights; ``auto`` keeps what the files hold.
        attn_implementation: As in Transformers; ``None`` lets it choose.
        gradient_checkpointing: Recompute activations in the backward pass.
        compile: Run the decoder layers through ``torch.compile``, see
            :func:`~lit_sdpo.policies.compiling.compile_layers`.
        lora: Adapters instead of full-parameter training.
        random_weights: Take the architecture only and begin with random weights, drawn from torch's global generator.
        config_overrides: Values of the model's configuration that are replaced, such as ``hidden_size``; with
            ``random_weights`` only.

    Raises:
        UserError: The model cannot be loaded, or not compiled on this machine.
    """
    source = resolve(model_name)
    if config_overrides and not random_weights:
        raise UserError(
            "loaded weights fit one architecture", where="model.config_overrides", fix="set random_weights too"
        )
    chosen: Any = dtype if dtype == "auto" else getattr(torch, dtype)
    options: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        if random_weights:
            config = architecture_from(source, config_overrides or {})
            policy: Any = AutoModelForCausalLM.from_config(config, dtype=None if dtype == "auto" else chosen, **options)
        else:
            policy = AutoModelForCausalLM.from_pretrained(source, dtype=chosen, trust_remote_code=False, **options)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the weights of {model_name!r} hold other objects than tensors, which could run code: not loaded",
            where=WHERE,
            fix="use weights in safetensors files",
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"cannot load {model_name!r} ({_first_line(error)})", where=WHERE, fix="check the name"
        ) from error
    switch_off_dropout(policy)
    fuse(policy)
    if compile:
        compile_layers(policy)
    if gradient_checkpointing:
        # Renamed in the course of Transformers 5.
        old = policy.gradient_checkpointing_enable
        enable = getattr(policy, "activation_checkpointing_enable", old)
        enable({"use_reentrant": False, "context_fn": recomputation_contexts})
    if lora is not None:
        from peft import LoraConfig, get_peft_model

        arguments = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        )
        policy = get_peft_model(policy, arguments)
        if gradient_checkpointing:
            policy.enable_input_require_grads()
    policy.train()
    return policy


def architecture_from(source: str, overrides: Mapping[str, Any]) -> PreTrainedConfig:
    """A model's configuration with values replaced; Transformers would not look at it again before it is saved.

    Raises:
        UserError: The values contradict each other.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False, **overrides)
    try:
        config.validate()
    except StrictDataclassError as error:
        what = str(error.__cause__ or error)
        raise UserError(what, where="model.config_overrides", fix="change the other value along with it") from error
    return config


def end_token_ids(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a completion: the tokenizer's and those of the generation configuration."""
    configured = getattr(policy.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, Sequence) else [configured]
    return sorted({int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None})


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any] | None = None
) -> list[int]:
    """Token ids of a chat prompt, up to where the model's answer begins.

    Args:
        tokenizer: With a chat template.
        messages: The chat so far; the last turn is the user's.
        options: Further arguments of the template, such as ``enable_thinking``.
    """
    return render_all(tokenizer, [messages], options)[0]


def render_all(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Sequence[Mapping[str, str]]],
    options: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """The same for many prompts, in half the time."""
    if not chats:
        return []
    plain = [[dict(message) for message in chat] for chat in chats]
    ids: Any = tokenizer.apply_chat_template(
        plain, add_generation_prompt=True, tokenize=True, return_dict=False, **(options or {})
    )
    return ids


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
