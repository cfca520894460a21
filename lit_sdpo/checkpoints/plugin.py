"""The checkpoint plugin: what Lightning calls to write, read and remove a file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from typing_extensions import override

from lit_sdpo.checkpoints.damaged import DAMAGED, DamagedError, compare, newest_good, warn_not_compared
from lit_sdpo.checkpoints.manifest import Contents, Manifest, is_divided
from lit_sdpo.checkpoints.schema import check_schema
from lit_sdpo.checkpoints.writing import save
from lit_sdpo.errors import UserError
from lit_sdpo.lightning_names import under_both_names


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that a kill, a full disk or a flipped bit cannot turn into a lost run.

    A save goes to a temporary file beside the target, is synced to the disk and read back, then takes the target's
    place in one move; ``<name>.ckpt.json`` with its size and SHA-256 is written last. The file that was there before
    stays until then.

    A load compares size and SHA-256 first. A damaged file is renamed to ``<name>.ckpt.corrupt``, if it has a manifest,
    and the newest good one in its folder that was written before is taken, with a message. Files are read as tensors
    and plain values only: nothing in them is run.

    Remote paths (``s3://...``) are left to Lightning. Works under both names of Lightning.

    Example:
        >>> import lightning.pytorch as pl
        >>> trainer = pl.Trainer(plugins=[SafeCheckpointIO()], logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        super().__init__()
        under_both_names(SafeCheckpointIO, CheckpointIO)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if _is_remote(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save(checkpoint, Path(path))

    @override
    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable | None = lambda storage, loc: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        if _is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        found, checkpoint = newest_good(Path(path), lambda candidate: _read(candidate, map_location))
        check_schema(checkpoint, found)
        return checkpoint

    @override
    def remove_checkpoint(self, path: Any) -> None:
        super().remove_checkpoint(path)
        if not _is_remote(path):
            Manifest.path(Path(path)).unlink(missing_ok=True)


def _is_remote(path: Any) -> bool:
    return "://" in str(path)


def _read(path: Path, map_location: Any) -> dict[str, Any]:
    """The checkpoint in a file, which has to hold what its manifest says."""
    if is_divided(path):
        raise UserError(
            "the checkpoint is a folder with a part of each process",
            where=str(path),
            fix="go on with ModelParallelStrategy, or make one file of it with lit-sdpo consolidate",
        )
    manifest = Manifest.of(path)
    try:
        with path.open("rb") as file:
            if manifest is not None:
                compare(Contents.read(file), manifest)
                file.seek(0)
            checkpoint: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        if path.with_name(path.name + DAMAGED).exists():  # set aside by this or another rank
            raise DamagedError("it was damaged") from error
        raise UserError("there is no such checkpoint", where=str(path), fix="give the path of a .ckpt file") from error
    except OSError as error:
        raise UserError(
            f"the checkpoint cannot be read ({error.strerror})", where=str(path), fix="give the path of a .ckpt file"
        ) from error
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # bytes that are no pickle at all
            raise DamagedError("it is no checkpoint") from error
        raise UserError(
            "the checkpoint holds objects other than tensors and plain values, which could run code; it was not loaded",
            where=str(path),
            fix="use a checkpoint that this package or a plain Lightning run has written",
        ) from error
    except (RuntimeError, EOFError) as error:  # what torch says of a cut or garbled archive
        raise DamagedError(str(error).splitlines()[0] if str(error) else "its end is missing") from error
    if manifest is None:
        warn_not_compared(path)
    return checkpoint
