"""What a checkpoint and the folder of its run say together: the policy, its settings, its scores."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_sdpo.checkpoints.last import latest_version
from lit_sdpo.checkpoints.manifest import FOLDER, SUFFIX, Contents, Manifest, in_order, is_divided
from lit_sdpo.checkpoints.schema import KEY, check_schema
from lit_sdpo.configs import expand
from lit_sdpo.errors import UserError
from lit_sdpo.policies.exporting import stored_generation_config
from lit_sdpo.policies.fitting import check_finite
from lit_sdpo.policies.load import Lora, load_policy

CONFIG = "config.yaml"
POLICY = "policy."
ADAPTER = ".lora_"


@dataclass(frozen=True)
class TrainedRun:
    """A checkpoint with what its run has written beside it.

    Attributes:
        path: The checkpoint.
        contents: Its size and SHA-256.
        checkpoint: What is in it; weights are read from the disk as they are needed.
        config: The configuration of the run.
        folder: The run folder.
    """

    path: Path
    contents: Contents
    checkpoint: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Path | None

    @property
    def model(self) -> Mapping[str, Any]:
        """Arguments of the method."""
        return dict(dict(self.config.get("model") or {}).get("init_args") or {})

    @property
    def method(self) -> str:
        """Name of the method's class."""
        known = self.described.get("method") or dict(self.config.get("model") or {}).get("class_path") or "unknown"
        return str(known).rpartition(".")[2]

    @property
    def described(self) -> Mapping[str, Any]:
        """What the run was made of, as the checkpoint has it."""
        return dict(dict(self.checkpoint.get(KEY) or {}).get("run") or {})

    @property
    def sampling(self) -> Mapping[str, Any] | None:
        """How evaluations sampled."""
        rollout = dict(self.config.get("rollout") or {})
        found = rollout.get("evaluation_sampling") or rollout.get("sampling")
        return {"temperature": 1.0, **found} if found and "max_new_tokens" in found else None

    def json(self, name: str) -> Any:
        """A JSON file of the run folder; ``None`` where there is none."""
        path = None if self.folder is None else self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else None

    def policy(self) -> Any:
        """The policy with the weights of the checkpoint, in their dtype; adapters of teachers are left out.

        Raises:
            UserError: The configuration describes another model.
        """
        given = self.model
        state = {
            name.removeprefix(POLICY): tensor
            for name, tensor in self.checkpoint["state_dict"].items()
            if name.startswith(POLICY)
        }
        if not state or "model_name" not in given:
            lacks = "the checkpoint holds no policy" if not state else "the configuration has no model.model_name"
            raise UserError(lacks, where=str(self.path), fix="give a checkpoint of this package, and --config")
        complete = any(ADAPTER not in name for name in state)
        drawn = bool(given.get("random_weights"))
        if drawn and not complete:
            text = "the checkpoint holds an adapter alone, and its base had random weights"
            raise UserError(text, where=str(self.path), fix="use a checkpoint that holds the base")
        lora = given.get("lora")
        dtypes = [tensor.dtype for name, tensor in state.items() if tensor.is_floating_point() and ADAPTER not in name]
        policy: Any = load_policy(
            given["model_name"],
            dtype=str(dtypes[0]).removeprefix("torch.") if dtypes else given.get("dtype") or "float32",  # type: ignore[arg-type]
            lora=Lora(**lora) if lora else None,
            random_weights=complete,
            config_overrides=given.get("config_overrides") if drawn else None,
            trust_remote_code=bool(given.get("trust_remote_code")),
        )
        if complete and not drawn and (stored := stored_generation_config(given["model_name"])) is not None:
            policy.generation_config = stored
        self._fill(policy, state, complete)
        return policy.eval()

    def _fill(self, policy: Any, state: Mapping[str, Any], complete: bool) -> None:
        try:
            result = policy.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise UserError(
                f"its weights have other shapes than the model ({str(error).splitlines()[1].strip()})",
                where=str(self.path),
                fix="give the configuration of its run with --config",
            ) from error
        check_finite(state.items(), str(self.path), "use an earlier checkpoint")
        missing = [name for name in result.missing_keys if complete or ADAPTER in name]
        others = [name for name in result.unexpected_keys if ADAPTER not in name]
        for words, names in (("lacks", missing), ("has besides", others)):
            if names:
                raise UserError(
                    f"the checkpoint is of another model: it {words} {names[0]}",
                    where=str(self.path),
                    fix="give the configuration of its run with --config",
                )


def open_run(target: Path, config: str | None = None) -> TrainedRun:
    """Find and check a checkpoint and the configuration of its run.

    Args:
        target: A checkpoint, a run folder (its newest checkpoint is taken), or a folder of checkpoints.
        config: Configuration of the run; ``None`` looks for ``config.yaml`` beside.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = _newest(target)
    if path.is_dir():
        raise UserError(
            "the checkpoint is divided among processes",
            where=str(path),
            fix="make one file of it with lit-sdpo consolidate, and use that",
        )
    folder = next((place for place in path.resolve().parents[:2] if (place / CONFIG).is_file()), None)
    if folder is None and config is None:
        fix = "give the configuration of the run, --config FILE"
        raise UserError(f"no {CONFIG} of the run beside the checkpoint", where=str(path), fix=fix)
    contents = _checked(path)
    checkpoint = _load(path)
    check_schema(checkpoint, path)
    return TrainedRun(path, contents, checkpoint, _config(config or str(folder / CONFIG)), folder)  # type: ignore[operator]


def _newest(target: Path) -> Path:
    if target.is_file():
        return target
    if not target.is_dir():
        raise UserError("there is no such checkpoint or run folder", where=str(target), fix="give one of the two")
    if is_divided(target):
        return target
    version = latest_version(target)
    below = [] if version is None else [target / f"version_{version}" / FOLDER]
    for place in (target / FOLDER, *below, target):
        if found := in_order(place):
            return found[0]
    raise UserError(f"no *{SUFFIX} in it", where=str(target), fix="give a run folder or a checkpoint")


def _checked(path: Path) -> Contents:
    contents, manifest = Contents.of(path), Manifest.of(path)
    if manifest is not None and contents not in manifest.accepted:
        others = [other.name for other in in_order(path.parent) if other != path]
        fix = f"use another one: {', '.join(others[:3])}" if others else "train again"
        raise UserError("the checkpoint is damaged: it is not what its manifest says", where=str(path), fix=fix)
    return contents


def _load(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        text = "it holds objects other than tensors and plain values, which could run code; it was not loaded"
        raise UserError(text, where=str(path), fix="use a checkpoint of this package") from error
    except (RuntimeError, EOFError) as error:
        raise UserError("this is no checkpoint, or it is damaged", where=str(path), fix="use another one") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise UserError("this is no checkpoint of a run", where=str(path), fix="use another file")
    return found


def _config(file: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for content in map(yaml.safe_load, expand(["--config", file])[1::2]):
        merged = _over(merged, content)
    return merged


def _over(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _over(below.get(key), value) for key, value in above.items()}
