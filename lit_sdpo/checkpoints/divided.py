"""Checkpoints of divided weights: what Lightning's strategy writes and reads by itself, made as safe as a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.api import CheckpointException

from lit_sdpo.checkpoints.damaged import DAMAGED, DamagedError, compare, newest_good, warn_not_compared
from lit_sdpo.checkpoints.manifest import Contents, Manifest, is_divided, next_number
from lit_sdpo.checkpoints.schema import check_schema
from lit_sdpo.checkpoints.writing import explained, remove, tensor_bytes
from lit_sdpo.errors import UserError
from lit_sdpo.files import sync
from lit_sdpo.lightning_names import both


def guard(strategy: Any) -> None:
    """Let a strategy that divides weights save and load safely; does nothing to others.

    A folder is written beside its target. Once all processes have written, the first one reads it through, moves it
    into place and writes its manifest. A load, of a file too, compares first: what is damaged is renamed, and the
    newest good checkpoint that was written before is taken.
    """
    if isinstance(strategy, both(ModelParallelStrategy)) and "load_checkpoint" not in vars(strategy):
        strategy.load_checkpoint = _loading(strategy, strategy.load_checkpoint)  # type: ignore[method-assign]
        if strategy._save_distributed_checkpoint:
            strategy.save_checkpoint = _saving(strategy, strategy.save_checkpoint)  # type: ignore[method-assign]


def place(temporary: Path, path: Path) -> None:
    """Move a folder whose files are all written to where it belongs, and write its manifest.

    At every moment the manifest accepts what is there; between two moves there may be nothing for an instant, where a
    checkpoint of this name is replaced.
    """
    for name in (*(file for file in temporary.rglob("*") if file.is_file()), temporary):
        sync(name)
    contents, number = Contents.of(temporary), next_number(path.parent)
    old = path.with_name(f"{path.name}.old.tmp-{os.getpid()}")
    if path.exists():
        known = Manifest.of(path)
        Manifest(number, (*(known.accepted if known else [Contents.of(path)]), contents)).write(path)
        os.rename(path, old)
    os.rename(temporary, path)
    sync(path.parent)
    Manifest(number, (contents,)).write(path)
    sync(path.parent)
    remove(old)


def find_good(wanted: Path) -> Path:
    """The checkpoint, or the newest good one before it; damaged ones are renamed.

    Raises:
        UserError: There is none.
    """
    return newest_good(wanted, _check)[0]


def _check(path: Path) -> None:
    manifest = Manifest.of(path)
    if not path.exists():
        if path.with_name(path.name + DAMAGED).exists():
            raise DamagedError("it was damaged")
        raise UserError("there is no such checkpoint", where=str(path), fix="give the path of a .ckpt file or folder")
    if manifest is not None:
        compare(Contents.of(path), manifest)
        return
    if path.is_dir() and not (is_divided(path) and (path / "meta.pt").is_file()):
        raise DamagedError("it was not written to its end")
    warn_not_compared(path)


def _saving(strategy: Any, save: Callable[..., None]) -> Callable[..., None]:
    def safely(checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if "://" in str(filepath) or storage_options is not None:
            save(checkpoint, filepath, storage_options)
            return
        path = Path(strategy.broadcast(filepath))
        temporary = Path(strategy.broadcast(path.with_name(f"{path.name}.tmp-{os.getpid()}")))
        need = tensor_bytes(checkpoint)
        with explained(path, lambda: need):
            try:
                _written(save, checkpoint, temporary)
                if strategy.is_global_zero:
                    place(temporary, path)
            except BaseException:
                if strategy.is_global_zero:
                    remove(temporary)
                raise

    return safely


def _written(save: Callable[..., None], checkpoint: dict[str, Any], folder: Path) -> None:
    """Save; an error of the file system on any process is one on all of them."""
    try:
        save(checkpoint, folder)
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError):
                raise cause from None
        raise RuntimeError(str(error)) from error


def _loading(strategy: Any, load: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def safely(checkpoint_path: Any, *args: Any, **given: Any) -> dict[str, Any]:
        if "://" in str(checkpoint_path):
            return load(checkpoint_path, *args, **given)
        found: Any = None
        if strategy.is_global_zero:  # what it decides goes for all
            try:
                found = find_good(Path(checkpoint_path))
            except UserError as error:
                found = error
        found = strategy.broadcast(found)
        if isinstance(found, UserError):
            raise found
        checkpoint = load(found, *args, **given)
        check_schema(checkpoint, found)
        return checkpoint

    return safely
