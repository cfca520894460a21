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
# # Reading a run
#
# What a run leaves behind, and how to look at it: the matrix of scores with intervals, what single prompts lost and
# won, how far the weights and the responses drifted, and which artifacts grew. The run here is too short to conclude
# anything from; it has every file that a long one has.

# %%
import csv
import logging
import warnings
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import torch

from lit_sdpo import (
    SDPO,
    ArtifactMonitor,
    CollapseMonitor,
    EMATeacher,
    ForgettingMatrix,
    InitialEvaluation,
    MicroDataModule,
    ParameterDrift,
    ResponseDrift,
    RolloutCallback,
    SampleLogger,
    Sampling,
)
from lit_sdpo.report import accuracy_by_stage, heat_map
from lit_sdpo.report.events import scalars

warnings.filterwarnings("ignore", ".*LeafSpec")  # raised inside Lightning
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
pl.seed_everything(0)
scratch = TemporaryDirectory()  # for what the run writes; it goes with the last cell

# %% [markdown]
# ## A run that measures everything
#
# On the command line this is `lit-sdpo fit --config configs/micro/sdpo_ema.yaml --config configs/micro/measure.yaml`.

# %%
data = MicroDataModule(order=["math", "tool"], steps=3, eval_prompts=8, eval_generations=4)
model = SDPO("micro", teacher=EMATeacher(update_rate=0.05), optimizer=partial(torch.optim.AdamW, lr=1e-3))
forgetting = ForgettingMatrix()
trainer = pl.Trainer(
    **data.trainer_arguments(),
    accelerator="cpu",
    gradient_clip_val=1.0,
    enable_progress_bar=False,
    enable_model_summary=False,
    logger=pl.loggers.TensorBoardLogger(scratch.name, name="reading"),
    callbacks=[
        RolloutCallback(num_generations=8, sampling=Sampling(max_new_tokens=64)),
        InitialEvaluation(),
        forgetting,
        SampleLogger(every_n_steps=1),
        ParameterDrift(),
        ResponseDrift(num_prompts=4, distance_prompts=16),
        ArtifactMonitor(),
        CollapseMonitor(),
    ],
)
trainer.fit(model, data)
folder = Path(trainer.log_dir)
print(*sorted(path.name for path in folder.iterdir()), sep="\n")


# %%
def table(name, **wanted):
    """The lines of a CSV file of the run in which the named columns have the given values."""
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return [line for line in csv.DictReader(file) if all(line[key] == value for key, value in wanted.items())]


# %% [markdown]
# ## The matrix
#
# Row i: after stage i. A task's own stage is framed. Read along a column: what comes after the frame is kept or
# forgotten, what comes before it is transfer.

# %%
heat_map(forgetting.matrix, title="accuracy after each stage")

# %%
accuracy_by_stage(forgetting.matrix, title="accuracy of every task")

# %% [markdown]
# The same numbers with 95 % intervals over prompts, and the change from the base model in percent: at a task's own
# stage the paper's *Current*, at the last stage its *Last*.

# %%
for line in table("tasks.csv", task="math"):
    print(f"{line['stage']:8} {float(line['score']):.2f} [{float(line['low']):.2f}, {float(line['high']):.2f}]")

# %% [markdown]
# ## What single prompts lost and won
#
# An unchanged average can hide that some prompts were lost while others were won. `by_sampling` is what one would
# lose between two single samples of a model that did not change at all; only what goes beyond it is forgetting.

# %%
for line in table("changes.csv", task="math"):
    print({key: line[key] for key in ("stage", "since", "change", "low", "high", "lost", "won") if key in line})

# %% [markdown]
# ## Drift of the weights
#
# One line per matrix and stage. Angles and overlaps of subspaces mean little where the gap between the singular
# values is near 0.

# %%
last = table("drift.csv")[-1]["stage"]
for line in table("drift.csv", stage=last)[:7]:
    print({key: line[key] for key in ("name", "relative_norm", "spectrum_shift", "left_angle", "gap") if key in line})

# %% [markdown]
# ## Drift of the responses
#
# `forward_kl` is KL(base‖policy) on the base model's own responses, `reverse_kl` KL(policy‖base) on the policy's. On
# the task that is being trained they say what learning cost; on earlier tasks what it broke.

# %%
for line in table("response_drift.csv"):
    if line["number"] in ("forward_kl", "reverse_kl") and line["task"] in ("math", "tool", "prior"):
        print(f"{line['stage']:10} {line['task']:8} {line['number']:12} {float(line['value']):.4f}")

# %% [markdown]
# ## Artifacts
#
# How often responses carry a marker that belongs to another task, and how repetitive they are.

# %%
for line in table("artifacts.csv", stage="2"):
    print({key: line[key] for key in ("task", "format", "foreign_markers", "repetition", "distinct_2") if line[key]})

# %% [markdown]
# ## Curves
#
# TensorBoard shows those of a folder that is kept (`tensorboard --logdir runs`, *Custom Scalars* first); `scalars`
# gives them to Python.

# %%
curves = scalars(folder)
for tag in sorted(curves)[:12]:
    print(tag, len(curves[tag]))

# %%
scratch.cleanup()
