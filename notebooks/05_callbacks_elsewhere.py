# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The callbacks in another Lightning project
#
# The measurements know nothing of language models or of this package's modules. Here a plain LightningModule, a
# classifier, learns two tasks one after the other, and two callbacks watch it.

# %%
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lit_sdpo import ForgettingMatrix, InitialEvaluation, ParameterDrift
from lit_sdpo.report import heat_map

warnings.filterwarnings("ignore", ".*LeafSpec|.*num_workers|.*does not have many workers")
logging.getLogger("lightning").setLevel(logging.WARNING)
scratch = TemporaryDirectory()  # for what the runs write; it goes with the last cell

# %% [markdown]
# ## A project of its own
#
# Two tasks over the same points. `near` asks almost the same question as the first task, `far` another one: which is
# forgotten more?

# %%
ANGLES = {"first": 0.0, "near": 0.5, "far": 1.5}  # direction of the line that parts the classes, in radians


def points(task, split):
    generator = torch.Generator().manual_seed(["train", "validation"].index(split))
    x = torch.randn(512, 2, generator=generator)
    angle = torch.tensor(ANGLES[task])
    return TensorDataset(x, (x @ torch.stack([angle.cos(), angle.sin()]) > 0).long())


class Classifier(pl.LightningModule):
    """Nothing in here is about the callbacks, except that it logs one accuracy per task."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        accuracy = (self.layers(batch[0]).argmax(-1) == batch[1]).float().mean()
        self.log(f"accuracy_on_{list(ANGLES)[dataloader_idx]}", accuracy, add_dataloader_idx=False)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def train_dataloader(self):  # an epoch per task
        return DataLoader(points(self.order[self.trainer.current_epoch], "train"), batch_size=32)

    def val_dataloader(self):
        return [DataLoader(points(task, "validation"), batch_size=512) for task in ANGLES]


# %% [markdown]
# ## Measuring it
#
# `metric` says how the module names what it logs, `tasks` which names there are, `stages` which task each epoch
# trained on. `InitialEvaluation` gives row 0, the model before training.

# %%


def measured(second):
    pl.seed_everything(0)
    order = ["first", second]
    forgetting = ForgettingMatrix(metric="accuracy_on_{task}", tasks=list(ANGLES), stages=order)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        logger=pl.loggers.CSVLogger(scratch.name, name=second),
        callbacks=[InitialEvaluation(), forgetting, ParameterDrift()],
    )
    trainer.fit(Classifier(order))
    return forgetting, Path(trainer.log_dir)


near, near_folder = measured("near")
far, far_folder = measured("far")

# %%
heat_map(near.matrix, title="then the near task")

# %%
heat_map(far.matrix, title="then the far task")

# %% [markdown]
# ## Numbers
#
# Backward transfer: what the first task lost by the second. The far task takes more from it.

# %%
for name, matrix in (("near", near), ("far", far)):
    print(name, matrix.matrix.plain(), sep="\n")

# %% [markdown]
# ## How far the weights moved
#
# The same callback that measures a language model with billions of weights; here it writes a line per matrix and epoch.

# %%
for name, folder in (("near", near_folder), ("far", far_folder)):
    print(name, (folder / "drift.csv").read_text(encoding="utf-8"), sep="\n")

# %% [markdown]
# `ResponseDrift(prompts={...})` does the same for what a Hugging Face model says, in any module that holds a `model`
# and a `tokenizer`; `ArtifactMonitor(markers={...}).observe(task, responses)` for texts, wherever they come from;
# `CollapseMonitor(metrics={...})` watches any logged reward, entropy and divergence.

# %%
scratch.cleanup()
