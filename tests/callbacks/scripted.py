"""A module whose validation scores are written down beforehand, and the trainer around it."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from tests.loggers import InFolder

TASKS, PROBES = ["math", "law"], ["poems"]
STAGES = ["math", "law", "math"]
SCORES = [[0.1, 0.2, 0.90], [0.8, 0.3, 0.85], [0.5, 0.7, 0.80], [0.6, 0.4, 0.84]]


class Stream(pl.LightningDataModule):
    task_names, probe_names, stage_names = TASKS, PROBES, STAGES

    def __init__(self, batches=3):
        super().__init__()
        self.batches = batches

    def train_dataloader(self):
        return DataLoader(torch.ones(self.batches, 1))

    def val_dataloader(self):
        return DataLoader(torch.ones(2, 1))


class Scripted(pl.LightningModule):
    """After n optimizer steps, logs row n // steps of ``scores``; in the middle of a stage, zeros."""

    def __init__(self, scores=SCORES, names=(*TASKS, *PROBES), steps=3):
        super().__init__()
        self.scores, self.names, self.steps = scores, names, steps
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[int, bool, bool]] = []

    def training_step(self, batch, batch_idx):
        return (self.weight - batch).square().sum()

    def validation_step(self, batch, batch_idx):
        self.asked.append((self.trainer.global_step, self.training, torch.is_grad_enabled()))

    def on_validation_epoch_end(self):
        stage, rest = divmod(self.trainer.global_step, self.steps)
        scores = self.scores[stage] if rest == 0 else [0.0] * len(self.names)
        for name, score in zip(self.names, scores, strict=True):
            if score is not None:
                self.log(f"val/{name}/accuracy", score, sync_dist=self.trainer.world_size > 1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, *callbacks, **options):
    settings = {"max_epochs": 3, "logger": InFolder(tmp_path), "enable_checkpointing": False, "accelerator": "cpu"}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings |= {"log_every_n_steps": 1, "default_root_dir": tmp_path}
    return pl.Trainer(callbacks=list(callbacks), **(settings | options))
