"""From a checkpoint that is a folder, with a file of each process, to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_sdpo.checkpoints.damaged import DamagedError, compare
from lit_sdpo.checkpoints.manifest import Contents, Manifest, is_divided
from lit_sdpo.checkpoints.writing import save
from lit_sdpo.errors import UserError
from lit_sdpo.policies.fitting import check_finite


def consolidate(folder: Path, file: Path) -> None:
    """Write what a divided checkpoint holds as one file, which any number of processes can go on from.

    Everything passes through the memory of this process, which needs no accelerator and no other process.

    Args:
        folder: As ``ModelParallelStrategy(save_distributed_checkpoint=True)`` has written it.
        file: Where it goes; its manifest is put beside it.

    Raises:
        UserError: It is no such folder, it is damaged, its weights are not finite, or the file is there already.
    """
    manifest = Manifest.of(folder)
    if manifest is not None and folder.is_dir():
        try:
            compare(Contents.of(folder), manifest)
        except DamagedError as error:
            raise UserError(f"the checkpoint is damaged: {error}", where=str(folder), fix="use another one") from error
    if not is_divided(folder):
        raise UserError("no checkpoint that is divided among processes", where=str(folder), fix="give its folder")
    if file.exists():
        raise UserError("there is something already", where=str(file), fix="give another name")
    from lightning.fabric.utilities.load import _load_distributed_checkpoint

    checkpoint: dict[str, Any] = _load_distributed_checkpoint(folder)
    weights = checkpoint.get("state_dict", {}).items()
    policy = [(name, weight) for name, weight in weights if name.startswith("policy.")]
    check_finite(policy, str(folder), "use an earlier checkpoint")
    numbers = sorted(int(name.removeprefix("optimizer_")) for name in checkpoint if name.startswith("optimizer_"))
    checkpoint["optimizer_states"] = [checkpoint.pop(f"optimizer_{number}") for number in numbers]
    save(checkpoint, file)
