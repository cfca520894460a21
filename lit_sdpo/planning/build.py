"""The method of a configuration, built without storage from an architecture that is found without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PretrainedConfig

from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.planning.settings import Settings
from lit_sdpo.policies.load import WHERE, architecture_from, resolve
from lit_sdpo.shipped_configs import shipped

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")

SHIPPED = Path("architectures") / "models.json"
"""Beside a configuration or one folder above it: names of models, each with the folder that has its ``config.json``."""


def folder_of(settings: Settings) -> Path | None:
    """The folder of the run's model; ``None`` where it has a name on the Hub."""
    folder = Path(resolve(settings.get("model.init_args.model_name")))
    return folder if folder.is_dir() else None


def architecture_of(settings: Settings, folder: str | None, files: Sequence[str] = ()) -> PretrainedConfig:
    """The model's configuration, overrides included; its weights are not looked at.

    Args:
        settings: The configuration of the run.
        folder: A folder with the ``config.json`` to use; ``None`` takes that of ``model_name``: from its folder, from
            what is shipped beside the configuration, or from the Hub.
        files: Of the configuration.

    Raises:
        UserError: It cannot be had.
    """
    name = settings.get("model.init_args.model_name")
    source = folder or _shipped(files).get(name, name)
    trust = bool(settings.get("model.init_args.trust_remote_code", False))
    try:
        return architecture_from(resolve(source), settings.get("model.init_args.config_overrides", {}), trust)
    except UserError as error:
        if folder or settings.get("model.init_args.config_overrides"):
            raise
        fix = f"{error.fix}; or name a folder that holds its config.json with --architecture"
        raise UserError(error.what, where=error.where, fix=fix) from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot read the architecture of {source!r} ({str(error).strip().splitlines()[0][:160]})",
            where="--architecture" if folder else WHERE,
            fix="name a folder that holds its config.json with --architecture",
        ) from error


def _shipped(files: Sequence[str]) -> dict[str, str]:
    """Folders of architectures by the names of models, as files beside the configuration say."""
    found = [Path(file) if Path(file).is_file() else shipped(file) or Path(file) for file in files]
    places = {parent / SHIPPED for path in found for parent in path.absolute().parents[:2]}
    lists = {place: json.loads(place.read_text(encoding="utf-8")) for place in places if place.is_file()}
    return {name: str(place.parent / folder) for place, names in lists.items() for name, folder in names.items()}


def module_of(
    settings: Settings, architecture: PretrainedConfig, tokenizer: Path, stages: Sequence[Stage] = ()
) -> OnPolicyModule:
    """The method with its policy and all copies of it, none of which has storage.

    Args:
        settings: The configuration of the run.
        architecture: Of the policy.
        tokenizer: Folder of a tokenizer.
        stages: The stream.
    """
    given = settings.config.model.clone()
    options = given.init_args
    if options.get("dtype") == "auto":
        options["dtype"] = str(architecture.dtype or torch.float32).removeprefix("torch.")
    if options.get("compile"):
        options["compile"] = False  # this machine may lack what it needs
    with _stand_in(architecture, tokenizer) as folder:
        options["model_name"], options["random_weights"] = folder, True
        if options.get("config_overrides"):
            options["config_overrides"] = None  # the architecture has them
        module: OnPolicyModule = settings.build("model", given)
        module.expect(stages)
        with torch.device("meta"):
            module.configure_model()
    half = {"bf16-true": torch.bfloat16, "16-true": torch.float16}.get(str(settings.get("trainer.precision")))
    return module if half is None else module.to(half)


@contextmanager
def _stand_in(architecture: PretrainedConfig, tokenizer: Path) -> Iterator[str]:
    """A folder with this architecture and a tokenizer, which any method can be built from."""
    with TemporaryDirectory() as folder:
        for file in tokenizer.iterdir():
            if file.is_file() and file.suffix not in WEIGHTS and file.name != "config.json":
                shutil.copy(file, folder)
        architecture.save_pretrained(folder)
        yield folder
