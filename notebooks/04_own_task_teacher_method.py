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
# # Your own task, teacher and method
#
# Each is one small class. Here they are written in the page; in a project they are a file, named in YAML by its
# dotted path (`class_path: my_project.tasks.Doubling`).

# %%
import logging
import re
import warnings
from functools import partial
from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import torch

from lit_sdpo import (
    SDPO,
    ContinualDataModule,
    ForgettingMatrix,
    InitialEvaluation,
    MicroTask,
    RolloutCallback,
    Row,
    Sampling,
    Stage,
    Task,
    Teacher,
    Verdict,
)
from lit_sdpo.functional import squared_hellinger
from lit_sdpo.modules.sdpo import Distillation
from lit_sdpo.report import heat_map

warnings.filterwarnings("ignore", ".*LeafSpec")  # raised inside Lightning
logging.getLogger("lightning").setLevel(logging.WARNING)
pl.seed_everything(0)
scratch = TemporaryDirectory()  # for what the run writes; it goes with the last cell

# %% [markdown]
# ## A task
#
# Rows for three splits, and a verifier that never raises, whatever the text. Feedback may say what is wrong with an
# answer, never what would be right: it is shown to SDPO's teacher.


# %%
class Doubling(Task):
    """How much is n + n? The answer has to stand in a box."""

    markers = (r"\\boxed\{",)

    def __init__(self, name="doubling", largest=30):
        super().__init__(name)
        self.largest = largest

    def rows(self, split):
        numbers = range(1, self.largest + 1)
        chosen = [n for n in numbers if {0: "validation", 1: "test"}.get(n % 3, "train") == split]
        return [
            Row(
                id=f"doubling/{n}",
                messages=[{"role": "user", "content": f"Compute {n} + {n}. Use \\boxed{{}}."}],
                ground_truth=str(2 * n),
                reference=f"{n}+{n}={2 * n}. \\boxed{{{2 * n}}}",
            )
            for n in chosen
        ]

    def verify(self, completion, row):
        boxes = re.findall(r"\\boxed\{(\d+)\}", completion)
        if not boxes:
            return Verdict(0.0, "There is no number in a box.", ("no_answer",))
        right = boxes[-1] == row.ground_truth
        return Verdict(float(right), "" if right else "The number in the box is wrong.")


task = Doubling()
row = task.rows("train")[0]
print(row.messages[0]["content"], "->", task.verify(row.reference, row), task.verify("two", row))

# %% [markdown]
# ## A teacher
#
# A teacher owns a copy of the weights and says when it moves. Its buffers are part of the module, so a checkpoint has
# them and a resumed run goes on exactly.


# %%
class SlowingTeacher(Teacher):
    """Follows the student less and less: the share mixed in after step t is `rate / t`."""

    def __init__(self, rate=0.5, at_stage="keep"):
        super().__init__(at_stage)
        self.rate = rate

    def update(self, policy):
        self.weights.mix(policy, self.rate / int(self.ticks))


# %% [markdown]
# ## A method
#
# A method is a sum of terms. This one is SDPO with another divergence; `row_weights` and `target` can be replaced the
# same way, and a term of your own (`lit_sdpo.modules.objective.Term`) is added with `add_term`. The loss of a token
# never sees padding, slices or ranks.


# %%
class HellingerDistillation(Distillation):
    def divergence(self, tokens):
        student, teacher = torch.log_softmax(tokens.logits, -1), torch.log_softmax(tokens.target, -1)
        return squared_hellinger(student, teacher)


class HellingerSDPO(SDPO):
    """SDPO with the squared Hellinger distance over the whole vocabulary."""

    distillation = HellingerDistillation


# %% [markdown]
# ## Together
#
# The new task comes second in the stream, after one that the micro model knows; `ForgettingMatrix` needs to be told
# nothing.

# %%
data = ContinualDataModule(
    stages=[Stage(task=MicroTask("math"), steps=4, prompts_per_step=6), Stage(task=task, steps=4, prompts_per_step=6)],
    eval_prompts=10,
    eval_generations=2,
)
model = HellingerSDPO("micro", teacher=SlowingTeacher(), optimizer=partial(torch.optim.AdamW, lr=1e-3))
forgetting = ForgettingMatrix()
trainer = pl.Trainer(
    **data.trainer_arguments(),
    accelerator="cpu",
    gradient_clip_val=1.0,
    logger=False,
    default_root_dir=scratch.name,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[
        RolloutCallback(num_generations=8, sampling=Sampling(max_new_tokens=48)),
        InitialEvaluation(),
        forgetting,
    ],
)
trainer.fit(model, data)
print("the teacher moved", int(model.teacher.ticks), "times")

# %%
heat_map(forgetting.matrix, title="accuracy after each stage")

# %% [markdown]
# In YAML:
#
# ```yaml
# model:
#   class_path: my_project.methods.HellingerSDPO
#   init_args:
#     model_name: micro
#     teacher: {class_path: my_project.teachers.SlowingTeacher, init_args: {rate: 0.5}}
# data:
#   class_path: ContinualDataModule
#   init_args:
#     stages:
#       - task: {class_path: my_project.tasks.Doubling}
#         steps: 4
# ```

# %%
scratch.cleanup()
