"""Weights as they were when a run began: in a file beside the run, read from there when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_sdpo.errors import UserError, explained
from lit_sdpo.policies.fitting import check_same


def folders_above(checkpoint: str | Path | None) -> list[Path]:
    """Where the run folder of a checkpoint can be: the folder it lies in and the one above."""
    return list(Path(checkpoint).absolute().parents)[:2] if checkpoint else []


class BaseWeights:
    """Keeps weights in a file and finds it again after a resume; without a folder they stay in memory.

    Args:
        file: Name of the file in the run folder.
        owner: Whose weights these are, for messages.
        path: A file that another run has kept.
        remedy: What else a user can do where the file is missing, for messages.
    """

    def __init__(self, file: str, owner: str, path: str | None = None, remedy: str = "") -> None:
        self.file, self.owner, self.path, self.remedy = file, owner, path, remedy
        self.token: str | None = None
        #: Name to weight, once kept or opened; mapped from the file, so reading one takes no lasting memory.
        self.weights: Mapping[str, Tensor] = {}

    def keep(self, weights: Mapping[str, Tensor], folder: Path | None) -> None:
        """Remember the weights as they are now."""
        self.token = f"{time.time_ns():x}"
        copies = {name: w.detach().cpu() for name, w in weights.items()}
        if folder is None:
            self.weights = {name: w.clone() for name, w in copies.items()}
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file
        partial = path.with_suffix(".partial")
        torch.save({"token": self.token, "weights": copies}, partial)
        partial.replace(path)
        self.path = str(path.absolute())
        self.weights = torch.load(path, mmap=True, weights_only=True)["weights"]

    def open(self, folders: Iterable[Path], wanted: Mapping[str, Tensor]) -> None:
        """Find the file where it was, or in one of the folders, as a run folder may have been moved.

        Args:
            folders: Where it may be.
            wanted: The weights of the model now, whose names and shapes it has to have.

        Raises:
            UserError: It is in none of them, or holds the weights of another model.
        """
        if self.path is None and self.weights:  # kept in memory, by an earlier fit
            check_same(self.weights, wanted, self.owner, "give each model callbacks of its own")
            return
        candidates = [Path(self.path)] if self.path else []
        if self.token is not None:  # what another run has kept is where the user says
            candidates += [folder / self.file for folder in folders]
        for path in candidates:
            if path.is_file():
                content = _read(path)
                if self.token is None or content["token"] == self.token:
                    self.path, self.token = str(path.absolute()), content["token"]
                    self.weights = content["weights"]
                    check_same(self.weights, wanted, str(path), "give the file of a run with the same model")
                    return
        raise UserError(
            f"the weights of the start of the run are not in {' or '.join(map(str, candidates)) or self.file}",
            where=self.owner,
            fix=f"put {self.file} of the first run beside the checkpoint's folder{self.remedy}",
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the weights are."""
        return {"path": self.path, "token": self.token}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where they were."""
        self.path, self.token = state_dict["path"], state_dict["token"]


def _read(path: Path) -> Mapping[str, Any]:
    fix = f"give a {path.name} that a run has written"
    with explained("the file cannot be read", where=str(path), fix=fix):
        content = torch.load(path, mmap=True, weights_only=True)
    weights = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError("the file holds no weights", where=str(path), fix=fix)
    return {"token": content.get("token"), "weights": weights}
