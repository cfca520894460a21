"""A project under either name of Lightning: a classifier of two tasks, under every callback that fits it."""

from __future__ import annotations

from importlib import import_module

import torch
from torch.utils.data import DataLoader, TensorDataset

from lit_sdpo import (
    ArtifactMonitor,
    CollapseMonitor,
    ForgettingMatrix,
    InitialEvaluation,
    ParameterDrift,
    StageCheckpoint,
    StreamProgressBar,
    TensorBoardLayout,
)
from lit_sdpo.checkpoints.plugin import SafeCheckpointIO

NAMES = ["lightning.pytorch", "pytorch_lightning"]
TASKS = ["cats", "dogs"]


def loader(task: int) -> DataLoader:
    generator = torch.Generator().manual_seed(task)
    images = torch.randn(12, 16, generator=generator)
    return DataLoader(TensorDataset(images, (images.mean(1) > 0).long() ^ task), batch_size=4)


def classifier(name: str, watch: ArtifactMonitor | None = None):
    """The module of a package, which tells a monitor what it says."""
    pl = import_module(name)

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(16, 2)

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            answers = self.layer(batch[0]).argmax(1)
            accuracy = (answers == batch[1]).float().mean()
            self.log(f"val/{TASKS[dataloader_idx]}/accuracy", accuracy, add_dataloader_idx=False)
            self.log("entropy", accuracy)
            if watch is not None:
                watch.observe(TASKS[dataloader_idx], [f"It is <b> {TASKS[i]} |" for i in answers.tolist()])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

        def train_dataloader(self):
            return loader(self.trainer.current_epoch % 2)

        def val_dataloader(self):
            return [loader(0), loader(1)]

    return Classifier()


def trainer_of(name: str, folder, callbacks, **options):
    """A quiet Trainer of a package."""
    settings = {"max_epochs": 2, "accelerator": "cpu", "reload_dataloaders_every_n_epochs": 1, "log_every_n_steps": 1}
    settings |= {"enable_model_summary": False, "default_root_dir": folder} | options
    return import_module(name).Trainer(callbacks=callbacks, **settings)


def fit(name: str, folder, logger, **options):
    """Train under all callbacks; the Trainer and the matrix."""
    watch, matrix = ArtifactMonitor(markers={"cats": ["cats"], "dogs": ["dogs"]}), ForgettingMatrix(tasks=TASKS)
    callbacks = [InitialEvaluation(), matrix, ParameterDrift(), watch, TensorBoardLayout(), StageCheckpoint()]
    callbacks += [CollapseMonitor(metrics={"entropy": "entropy"}), StreamProgressBar(seconds_between_lines=0)]
    trainer = trainer_of(name, folder, callbacks, logger=logger, plugins=[SafeCheckpointIO()], **options)
    trainer.fit(classifier(name, watch))
    return trainer, matrix
