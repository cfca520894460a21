"""A policy as a folder that Transformers or PEFT load: written whole or not at all, and compared after reloading."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from lit_sdpo.errors import UserError
from lit_sdpo.files import sync
from lit_sdpo.policies.gguf import is_gguf
from lit_sdpo.policies.held import adapted
from lit_sdpo.policies.load import end_token_ids, load_policy, resolve
from lit_sdpo.processes import is_running

#: One of these is in every folder that holds a model.
MARKS = ("config.json", "adapter_config.json")
#: Largest difference of logits, relative to the largest logit: as stored, and where weights were rounded.
SAME, ROUNDED = 1e-4, {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
#: Tokens of a prompt that are compared.
LONGEST = 512
#: Folder beside an adapter that holds its base, where that is in a GGUF file.
BASE = "base"


@contextmanager
def whole_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place in one move once everything is written.

    A process that is killed on the way leaves ``target`` as it was, and a folder whose name begins with a dot; the next
    export to the same place removes it.

    Args:
        target: The folder to write.
        overwrite: Replace a model that is there.

    Raises:
        UserError: ``target`` is in use or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    check_target(target, overwrite=overwrite)
    temporary, aside = (target.with_name(f".{target.name}.{name}-{os.getpid()}") for name in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _finish(path)
        if target.exists():
            os.replace(target, aside)
        os.replace(temporary, target)
        _finish(target.parent, mode=None)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError("the disk is full", where=str(target), fix="free some space") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside.exists():
            if not target.exists():
                os.replace(aside, target)
            shutil.rmtree(aside, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool = False) -> None:
    """Whether a folder can be written here.

    Raises:
        UserError: Something is there that would be lost.
    """
    if target.exists() and not target.is_dir():
        raise UserError("there is a file of this name", where=str(target), fix="give the path of a folder")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError("the folder is not empty", where=str(target), fix="give another folder, or --overwrite")
    if not any((target / mark).is_file() for mark in MARKS):
        raise UserError("the folder holds something else than a model", where=str(target), fix="give another folder")


def write_policy(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    place: Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write safetensors, tokenizer, chat template and generation configuration; of a LoRA model its adapter.

    An adapter names its base. Where that is in a GGUF file, which PEFT could not load by its name, the base is written
    too, into the folder ``base`` within.

    Args:
        policy: A Transformers model, or PEFT's around one.
        tokenizer: Its tokenizer.
        folder: Where to.
        place: Where the folder will stand in the end; ``None`` where it is.
        sampling: Fields of the run's ``Sampling``, to be the default of ``generate``; ``None`` keeps the model's own.
        state: Weights to write in the place of the policy's.

    Raises:
        UserError: They do not fit on the disk.
    """
    state = None if state is None else dict(state)
    need = sum(tensor.numel() * tensor.element_size() for tensor in policy.parameters())
    if (free := shutil.disk_usage(folder).free) < need and not adapted(policy):
        text = f"the weights need {need / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free"
        raise UserError(text, where=str(folder.parent), fix="free some space")
    own = policy.generation_config
    try:
        policy.generation_config = generation_config(policy, tokenizer, sampling)
        options: dict[str, Any] = {}
        if adapted(policy):  # without the adapters of teachers
            options = {"selected_adapters": [str(policy.active_adapter)], "save_embedding_layers": False}
        policy.save_pretrained(folder, state_dict=state, **options)
        policy.generation_config.save_pretrained(folder)
    finally:
        policy.generation_config = own
    _write_tokenizer(tokenizer, folder)
    if adapted(policy):
        _write_base(policy.get_base_model(), folder, (place or folder).resolve() / BASE)


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Without the truncation and padding of earlier calls, which readers of the file would apply to every text."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def _write_base(base: Any, folder: Path, place: Path) -> None:
    source = base.name_or_path
    if not is_gguf(source):
        return
    load_policy(source, dtype=str(base.dtype).removeprefix("torch.")).save_pretrained(folder / BASE)  # type: ignore[arg-type]
    file = folder / "adapter_config.json"
    told = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(place)}
    file.write_text(json.dumps(told, indent=2), encoding="utf-8")


def generation_config(
    policy: Any, tokenizer: PreTrainedTokenizerBase, sampling: Mapping[str, Any] | None = None
) -> GenerationConfig:
    """All end tokens, and how the run sampled.

    The longest completion is left out: Transformers lets it win over the ``max_length`` of whoever calls ``generate``.

    Args:
        policy: With the generation configuration of its base.
        tokenizer: Its tokenizer.
        sampling: See :func:`write_policy`.
    """
    made = GenerationConfig(**policy.generation_config.to_diff_dict())
    made.eos_token_id = end_token_ids(policy, tokenizer)
    made.pad_token_id = tokenizer.pad_token_id
    made._from_model_config = False
    if sampling is not None:
        greedy = sampling["temperature"] == 0
        made.do_sample = not greedy
        for name, off in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)):
            value = sampling.get(name, off)
            # Left out it would be Transformers' default, which for top_k is 50.
            setattr(made, name, None if greedy or (name == "min_p" and not value) else value)
    return made


def stored_generation_config(model_name: str) -> GenerationConfig | None:
    """That of a model folder or Hub name; ``None`` where there is none, as in a GGUF file."""
    source = resolve(model_name)
    with contextlib.suppress(OSError):
        return None if is_gguf(source) else GenerationConfig.from_pretrained(source)
    return None


def merged(policy: Any) -> Any:
    """The same model with its LoRA update in the weights, added up in float32; any other model as it is.

    Args:
        policy: Is changed.
    """
    if not adapted(policy):
        return policy
    return policy.float().merge_and_unload(adapter_names=[str(policy.active_adapter)])


def whole_state(policy: nn.Module) -> dict[str, Tensor] | None:
    """The weights of a policy that is divided among processes, all of which have to ask; ``None`` for any other."""
    entries = policy.state_dict()
    if not any(hasattr(tensor, "full_tensor") for tensor in entries.values()):
        return None
    return {name: getattr(tensor, "full_tensor", lambda t=tensor: t)().cpu() for name, tensor in entries.items()}


@dataclass(frozen=True)
class Comparison:
    """Logits of two models over the same prompts, both computed in float32.

    Attributes:
        difference: Largest absolute difference.
        largest: Largest absolute logit.
        agreement: Share of positions with the same most likely token.
        prompts: How many prompts.
    """

    difference: float
    largest: float
    agreement: float
    prompts: int

    def __str__(self) -> str:
        """One line.

        Example:
            >>> print(Comparison(0.0, 12.5, 1.0, 3))
            largest difference of logits 0 (of 12.5) over 3 prompts, same most likely token at 100.0% of positions
        """
        return (
            f"largest difference of logits {self.difference:.2g} (of {self.largest:.3g}) over {self.prompts} prompts,"
            f" same most likely token at {self.agreement:.1%} of positions"
        )


@torch.inference_mode()
def logits_of(policy: Any, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of each prompt, [T, V], by the model's own forward pass in float32 and eval mode.

    Args:
        policy: Is cast to float32.
        prompts: Token ids.
    """
    model = policy.float().eval()
    for module in model.modules():
        module.__dict__.pop("forward", None)  # the faster one of lit_sdpo.policies.fused_layers
    return [model(input_ids=torch.tensor([ids[:LONGEST]])).logits[0].clone() for ids in prompts]


def compare(before: Sequence[Tensor], after: Sequence[Tensor]) -> Comparison:
    """Compare the logits of some prompts."""
    a, b = torch.cat(list(before)), torch.cat(list(after))
    same = (a.argmax(-1) == b.argmax(-1)).double().mean()
    return Comparison(float((a - b).abs().max()), float(a.abs().max()), float(same), len(before))


def reload(folder: Path, base: str | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model in float32 and tokenizer, loaded by Transformers and PEFT alone.

    Args:
        folder: Of an export.
        base: Model below an adapter.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32)
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    return model, tokenizer


def _finish(path: Path, mode: int | None = 0o666) -> None:
    """Bring a file or folder to the disk, readable for whom new files are: safetensors' are for the user alone."""
    if mode is not None:
        mask = os.umask(0)
        os.umask(mask)
        path.chmod((0o777 if path.is_dir() else mode) & ~mask)
    sync(path)


def _remove_leftovers(target: Path) -> None:
    """Of processes that are gone; a model that had been moved aside and not yet replaced moves back."""
    for path in [p for kind in ("old", "tmp") for p in target.parent.glob(f".{target.name}.{kind}-*")]:
        pid = path.name.rpartition("-")[2]
        if not pid.isdecimal() or is_running(int(pid)):
            continue
        if ".old-" in path.name and not target.exists():
            os.replace(path, target)
        shutil.rmtree(path, ignore_errors=True)
