"""What a checkpoint and a resume cost, against stock Lightning, with AdamW and weights of the given size.

Each side trains a few steps in a fresh process and saves after every one: stock Lightning with its ``ModelCheckpoint``
and ``TorchCheckpointIO``, this package with ``StageCheckpoint`` and ``SafeCheckpointIO``. Then the run goes on from the
latest checkpoint. Wall time counts, as it is the disk that is waited for; ours waits until the bytes are there, reads
them back and compares them. Memory is what is resident at most beyond what was resident before. Both sides have to go
on with the same weights.

    python -m benchmarks.resume
"""

from __future__ import annotations

import gc
import json
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import Clock, in_fresh_process, parser, report, status_mb, use_threads
from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO

SIDES = ("stock Lightning", "lit_sdpo")
WIDTH = 512


class Weights(pl.LightningModule):
    """Square matrices of 1 MiB each, pulled towards zero."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrices = nn.ParameterList(torch.randn(WIDTH, WIDTH) for _ in range(megabytes))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Their mean square."""
        return torch.stack([matrix.square().mean() for matrix in self.matrices]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Two more numbers per weight, as in training."""
        return torch.optim.AdamW(self.parameters())


class Begin(pl.Callback):
    """When training began."""

    at = math.nan

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the first step."""
        if math.isnan(self.at):
            self.at = time.perf_counter()


def fit(side: str, folder: Path, megabytes: int, steps: int, ckpt_path: Path | None = None) -> tuple[Weights, float]:
    """Train up to so many steps, saving after each; the module, and the seconds until the first step."""
    saving: pl.Callback
    plugin: TorchCheckpointIO
    if side == "lit_sdpo":
        saving, plugin = StageCheckpoint(every_n_steps=1, keep_steps=1), SafeCheckpointIO()
    else:
        saving, plugin = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1), TorchCheckpointIO()
    module, begin = Weights(megabytes), Begin()
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=1,
        max_steps=steps,
        callbacks=[saving, begin],
        plugins=[plugin],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.fit(module, DataLoader(TensorDataset(torch.arange(100))), ckpt_path=ckpt_path)
    return module, begin.at - start


class Peak(Clock):
    """Time of the quickest call, and memory of the one that took most."""

    def __init__(self) -> None:
        super().__init__()
        self.best, self.extra = math.inf, 0.0

    def around(self, call: Any) -> Any:
        """Watch every call."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # the highest so far becomes that of now
            resident, start = status_mb("VmRSS"), time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.best = min(self.best, time.perf_counter() - start)
                self.extra = max(self.extra, status_mb("VmHWM") - resident)

        return watched


def measure(side: str, folder: Path, megabytes: int, steps: int) -> dict[str, Any]:
    """One side: costs of a save, of a load and of a start with and without one."""
    warnings.filterwarnings("ignore")
    save, load = Peak(), Peak()
    with mock.patch.object(pl.Trainer, "save_checkpoint", save.around(pl.Trainer.save_checkpoint)):
        _, fresh = fit(side, folder, megabytes, steps)
    checkpoint = max(folder.rglob(f"checkpoints/*step={steps}.ckpt"))  # rather than the stage's end
    size = checkpoint.stat().st_size / 2**20  # it may make room for the next one
    plugin = SafeCheckpointIO if side == "lit_sdpo" else TorchCheckpointIO
    with mock.patch.object(plugin, "load_checkpoint", load.around(plugin.load_checkpoint)):
        module, resumed = fit(side, folder, megabytes, steps + 1, checkpoint)
    return {
        "side": side,
        "save s": save.best,
        "save extra MiB": save.extra,
        "file MiB": size,
        "load s": load.best,
        "load extra MiB": load.extra,
        "resume s more than a fresh start": resumed - fresh,
        "weights": float(sum(matrix.double().sum() for matrix in module.matrices)),
    }


def main() -> None:
    """Measure both sides in turns, print the best of each."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=100, help="of weights; a checkpoint has three times as much")
    options.add_argument("--steps", type=int, default=4, help="and saves, in each round")
    options.add_argument("--folder", help="where to save; the system's temporary folder if not given")
    options.add_argument("--side", choices=SIDES, help="measure one side once")
    given = options.parse_args()
    if given.tiny:
        given.megabytes, given.steps, given.repeats = 2, 2, 1
    use_threads(given.threads)
    if given.side:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            print(json.dumps(measure(given.side, Path(folder), given.megabytes, given.steps)))
        return
    shared = ["--megabytes", str(given.megabytes), "--steps", str(given.steps), "--threads", str(given.threads)]
    shared += ["--folder", given.folder] if given.folder else []
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(given.repeats):
        for side, rounds in found.items():
            rounds.append(in_fresh_process("benchmarks.resume", "--side", side, *shared, threads=given.threads))
    rows = [
        {key: min(one[key] for one in rounds) if key != "side" else side for key in rounds[0]}
        for side, rounds in found.items()
    ]
    if rows[0].pop("weights") != rows[1].pop("weights"):
        raise RuntimeError("the two sides went on with different weights")
    report("resume", rows, megabytes=given.megabytes, steps=given.steps)


if __name__ == "__main__":
    main()
