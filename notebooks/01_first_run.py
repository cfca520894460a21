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
# # A first run
#
# A small model learns four tasks one after the other with SDPO, and after every stage it is examined on all of them.
# The stages here are very short, so that this page runs in less than a minute: it shows how a run is put together and
# where its results are, not how well the method learns. `configs/micro/sdpo.yaml` is the same run at full length.

# %%
import json
import logging
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import torch

from lit_sdpo import (
    SDPO,
    ForgettingMatrix,
    FrozenTeacher,
    InitialEvaluation,
    MicroDataModule,
    RolloutCallback,
    SampleLogger,
    Sampling,
)
from lit_sdpo.report import accuracy_by_stage, heat_map

warnings.filterwarnings("ignore", ".*LeafSpec")  # raised inside Lightning
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
pl.seed_everything(0)
scratch = TemporaryDirectory()  # for what the run writes; it goes with the last cell

# %% [markdown]
# ## The stream
#
# Four generated tasks. Each has its own kind of question and its own form of answer; variants that are never trained on
# (`..._ood`, `prior`) are examined too. One stage is one epoch.

# %%
data = MicroDataModule(order=["math", "sci", "tool", "code"], steps=3, eval_prompts=16, eval_generations=2)
for task in data.tasks:
    row = task.rows("train")[0]
    print(f"{task.name:5} {row.messages[0]['content']!r}\n      {row.reference!r}")

# %% [markdown]
# ## Model, rollouts, measurements
#
# The module knows the loss. The rollout callback generates completions, has them verified and hands them to the module.
# `ForgettingMatrix` looks on and keeps the scores.

# %%
model = SDPO(
    "micro",
    teacher=FrozenTeacher(at_stage="reset_to_student"),
    optimizer=partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.01),
)
forgetting = ForgettingMatrix()
trainer = pl.Trainer(
    **data.trainer_arguments(),
    accelerator="cpu",
    accumulate_grad_batches=2,
    gradient_clip_val=1.0,
    enable_progress_bar=False,
    enable_model_summary=False,
    logger=pl.loggers.TensorBoardLogger(scratch.name, name="first-run"),
    callbacks=[
        RolloutCallback(num_generations=8, sampling=Sampling(max_new_tokens=64)),
        InitialEvaluation(),
        forgetting,
        SampleLogger(every_n_steps=1),
    ],
)

# %% [markdown]
# ## The run

# %%
trainer.fit(model, data)

# %% [markdown]
# ## What was learned, what was forgotten
#
# A row per stage, a column per task and probe; the first row is the model before training. A frame marks the task that
# the stage trained on. After a dozen steps the differences are mostly chance.

# %%
heat_map(forgetting.matrix, title="accuracy after each stage")

# %%
accuracy_by_stage(forgetting.matrix, title="accuracy of every task")

# %%
print(forgetting.matrix.plain())

# %% [markdown]
# ## What the model wrote
#
# Every completion is in `samples.jsonl` in the run's folder, beside the matrix.

# %%
folder = Path(trainer.log_dir)
samples = [json.loads(line) for line in (folder / "samples.jsonl").open(encoding="utf-8")]
print(len(samples), "completions:", dict(Counter(f"{sample['split']} {sample['task']}" for sample in samples)))
for task in data.task_names:
    sample = next(s for s in samples if s["task"] == task and s["split"] == "train")
    print(f"\n{task}: {sample['prompt'][0]['content']!r}\n  {sample['completion']!r}\n  reward {sample['reward']}")

# %% [markdown]
# The same folder holds the TensorBoard events. Give the logger `"runs"` in the place of `scratch.name` to keep it, and
# look at it with `tensorboard --logdir runs`.

# %%
scratch.cleanup()
