"""Load a Hugging Face causal language model and its tokenizer, and say clearly what is missing."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lit_sdpo.errors import UserError, explained, reason
from lit_sdpo.policies.attention import recomputation_contexts
from lit_sdpo.policies.chat import render as render
from lit_sdpo.policies.chat import render_all as render_all
from lit_sdpo.policies.compiling import compile_layers
from lit_sdpo.policies.dropout import switch_off_dropout
from lit_sdpo.policies.fitting import check_finite, check_loading, report_kept_back
from lit_sdpo.policies.fused_layers import fuse
from lit_sdpo.policies.gguf import gguf_config, gguf_file, gguf_tokenizer, is_gguf, loading_options, located
from lit_sdpo.policies.hub import check_at_hand
from lit_sdpo.policies.remote_code import own_code
from lit_sdpo.ranges import check_integer, check_number

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
        """Check the ranges."""
        check_integer("rank", self.rank, at_least=1)
        check_integer("alpha", self.alpha, at_least=1)
        check_number("dropout", self.dropout, at_least=0, below=1)


def resolve(model_name: str, where: str = WHERE) -> str:
    """Folder, GGUF file or Hub name to load from: the shipped model for ``micro``, else what the name says.

    Args:
        model_name: Folder, Hub name, GGUF file, ``micro`` or ``smollm2``.
        where: Key or argument that names it, for messages.

    Raises:
        UserError: It is a folder that is missing or holds no whole model, or a GGUF file that cannot be read here.
    """
    if model_name == MICRO:
        return str(files("lit_sdpo") / "assets" / "micro")
    if (file := gguf_file(model_name, where)) is not None:
        return str(file)
    looks_local = model_name.startswith((".", "/", "~"))
    path = Path(model_name).expanduser()
    if looks_local and not path.is_dir():
        raise UserError(f"no folder {model_name!r}", where=where, fix="give a model folder, a Hub name or 'micro'")
    if (path / "adapter_config.json").is_file():
        raise UserError(
            f"{model_name!r} holds an adapter, not a whole model", where=where, fix="merge it into its base first"
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(
            f"{model_name!r} has no config.json",
            where=where,
            fix="give a folder that holds a Hugging Face model or a GGUF file",
        )
    return str(path) if path.is_dir() else model_name


def load_tokenizer(model_name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer; it needs an end token and a chat template.

    Args:
        model_name: Folder, Hub name, GGUF file, ``micro`` or ``smollm2``.
        trust_remote_code: Run Python code that lies beside it.

    Raises:
        UserError: There is no tokenizer, no end token or no chat template.
    """
    source = resolve(model_name)
    check_at_hand(source, WHERE)
    fix = "save the tokenizer beside the model (tokenizer.save_pretrained)"
    with (
        explained(f"{model_name!r} has no tokenizer that can be loaded", where=WHERE, fix=fix),
        own_code(source, trust_remote_code, WHERE) as trust,
    ):
        tokenizer: Any = (
            gguf_tokenizer(source)
            if is_gguf(source)
            else AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
        )
    if not tokenizer.encode("a", add_special_tokens=False):  # without its files, Transformers makes an empty one
        raise UserError(f"{model_name!r} has no tokenizer with a vocabulary", where=WHERE, fix=fix)
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
    trust_remote_code: bool = False,
    where: str = WHERE,
) -> PreTrainedModel:
    """Load the model in training mode, in which its own dropout is off and only an adapter's acts.

    Args:
        model_name: Folder, Hub name, GGUF file, ``micro`` or ``smollm2``; the weights of a GGUF file are unpacked.
        dtype: Of the weights; ``auto`` keeps what the files hold.
        attn_implementation: As in Transformers; ``None`` lets it choose.
        gradient_checkpointing: Recompute activations in the backward pass.
        compile: Run the decoder layers through ``torch.compile``, see
            :func:`~lit_sdpo.policies.compiling.compile_layers`.
        lora: Adapters instead of full-parameter training.
        random_weights: Take the architecture only and begin with random weights, drawn from torch's global generator.
        config_overrides: Values of the model's configuration that are replaced, such as ``hidden_size``; with
            ``random_weights`` only.
        trust_remote_code: Run Python code that lies beside the model.
        where: Key or argument that names the model, for messages.

    Raises:
        UserError: The model cannot be loaded, its weights do not fit or are not finite, or it cannot be compiled on
            this machine.
    """
    source = resolve(model_name, where)
    check_at_hand(source, where)
    if config_overrides and not random_weights:
        raise UserError(
            "loaded weights fit one architecture", where="model.config_overrides", fix="set random_weights too"
        )
    chosen: Any = dtype if dtype == "auto" else getattr(torch, dtype)
    if attn_implementation == "":
        raise UserError("it has no name", where="model.attn_implementation", fix="give one, or leave it out")
    options: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    if random_weights:
        config = architecture_from(source, config_overrides or {}, trust_remote_code)
        if trust_remote_code:
            options["trust_remote_code"] = True
        place = "model.config_overrides" if config_overrides else where
        with explained(f"cannot build {model_name!r}", where=place, fix="use values that belong together"):
            policy: Any = AutoModelForCausalLM.from_config(config, dtype=None if dtype == "auto" else chosen, **options)
    else:
        policy = _loaded(source, model_name, where, trust_remote_code, dtype=chosen, **options)
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
        policy = _adapted(policy, lora)
        if gradient_checkpointing:
            policy.enable_input_require_grads()
    policy.train()
    return policy


def check_files(model_name: str, where: str = WHERE, trust_remote_code: bool = False) -> None:
    """Whether the weight files of a model have the names and shapes that its configuration asks for.

    No weight is read: the model is built without memory.

    Args:
        model_name: Folder, Hub name, GGUF file, ``micro`` or ``smollm2``.
        where: Key or argument that names it, for messages.
        trust_remote_code: Run Python code that lies beside it.

    Raises:
        UserError: They do not fit.
    """
    check_at_hand(source := resolve(model_name, where), where)
    _loaded(source, model_name, where, trust_remote_code, device_map="meta")


def _loaded(source: str, name: str, where: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """A model with its weights, all of which were in its files, had the right shape and are finite."""
    loader: Any = AutoModelForCausalLM
    options = loading_options(source) | options
    try:
        with (
            explained(f"cannot load {name!r}", where=where, fix="check the name and what is in it"),
            own_code(source, trust_remote_code, where) as trust,
            report_kept_back(),
        ):
            policy, info = loader.from_pretrained(
                **located(source),
                trust_remote_code=trust,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except UserError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise UserError(
                f"the weights of {name!r} hold other objects than tensors, which could run code: not loaded",
                where=where,
                fix="use weights in safetensors files",
            ) from error
        about = "attn_implementation" in options and re.search("attn|attention", reason(error), re.IGNORECASE)
        place = "model.attn_implementation" if about else error.where
        if isinstance(error.__cause__, ImportError):
            text = f"{name!r} asks for a library that is not installed ({reason(error)})"
            raise UserError(text, where=place, fix="install it, or choose what is there") from error
        raise UserError(error.what, where=place, fix=error.fix) from error
    check_loading(policy, info, name, where)
    if is_gguf(source):
        policy.config.name_or_path = policy.name_or_path = source  # where it can be found again
    asked = getattr(policy.config, "quantization_config", None)
    if asked is not None and not getattr(policy, "is_quantized", False):
        raise UserError(
            f"{name!r} has a quantization_config that Transformers does not know", where=where, fix="remove it"
        )
    check_finite(policy.named_parameters(), where, "give a model whose weights are numbers")
    return policy


def _adapted(policy: Any, lora: Lora) -> Any:
    """The model with adapters in the layers that were asked for, all of them and no other.

    Raises:
        UserError: A layer does not exist, cannot be adapted, or shares its weights with one that is not adapted.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    where, asked = "model.lora.target_modules", lora.target_modules
    names = [name for name, _ in policy.named_modules() if name]
    linear = dict.fromkeys(
        name.rpartition(".")[2] for name, module in policy.named_modules() if isinstance(module, torch.nn.Linear)
    )
    fix = f"use some of: {', '.join(linear)}; or all-linear"
    for wanted in [] if isinstance(asked, str) else asked:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
            raise UserError(f"the model has no layer {wanted!r}", where=where, fix=fix)
    with explained("the layers cannot be adapted", where=where, fix=fix), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tied", UserWarning)  # refused below
        arguments = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=asked,
            task_type="CAUSAL_LM",
        )
        adapted: Any = get_peft_model(policy, arguments)
    holders: dict[int, list[str]] = {}
    tuned: dict[int, str] = {}
    for name, module in adapted.named_modules():
        for weight in module._parameters.values():
            if weight is not None:
                holders.setdefault(id(weight), []).append(name)
        if isinstance(module, BaseTunerLayer):
            tuned[id(getattr(module.get_base_layer(), "weight", None))] = name
    for key, name in tuned.items():
        if len(holders.get(key, ())) > 1:  # the update would be that of one, and no folder could hold it
            raise UserError(
                f"the layer {name.rpartition('.')[2]!r} shares its weights with another one (tied embeddings)",
                where=where,
                fix=f"leave it out; {fix}",
            )
    return adapted


def architecture_from(source: str, overrides: Mapping[str, Any], trust_remote_code: bool = False) -> PreTrainedConfig:
    """A model's configuration with values replaced; Transformers would not look at it again before it is saved.

    Args:
        source: Folder, Hub name or GGUF file.
        overrides: The values.
        trust_remote_code: Run Python code that lies beside it.

    Raises:
        UserError: The values contradict each other.
    """
    place = "model.config_overrides" if overrides else WHERE
    check_at_hand(source, WHERE)
    with (
        explained("its config.json contradicts itself", where=place, fix="change the other value along with it"),
        own_code(source, trust_remote_code, WHERE) as trust,
    ):
        if is_gguf(source):
            config = gguf_config(source)
            config.update(dict(overrides))
        else:
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust, **overrides)
        config.validate()
    return config


def check_vocabulary(policy: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whether every token of the tokenizer, and every end token, is one that the model can read and write.

    A model may have more rows than the tokenizer has entries: many are padded to a round number.

    Raises:
        UserError: A token is outside of the model's vocabulary.
    """
    size = policy.get_input_embeddings().num_embeddings
    if len(tokenizer) > size:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} entries, the model only {size:,}",
            where=WHERE,
            fix="use the tokenizer that belongs to the model",
        )
    if beyond := [i for i in end_token_ids(policy, tokenizer) if not 0 <= i < size]:
        raise UserError(
            f"the end token {beyond[0]} is outside of the vocabulary of {size:,}",
            where=WHERE,
            fix="set eos_token_id in generation_config.json to a token of the model",
        )


def end_token_ids(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a completion: the tokenizer's and those of the generation configuration.

    Raises:
        UserError: The generation configuration names something else than token ids.
    """
    configured = getattr(policy.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, Sequence) else [configured]
    if wrong := [i for i in ids if i is not None and (isinstance(i, bool) or not isinstance(i, int))]:
        raise UserError(f"the end token {wrong[0]!r} is no token id", where=WHERE, fix="give eos_token_id as a number")
    return sorted({int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None})
