"""Small runs: a toy task, a reward that noise meets half of the time, a trainer that writes nothing."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import torch

from lit_sdpo.callbacks import RolloutCallback
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.task import Row, Stage, Task
from lit_sdpo.modules import CISPO, GRPO, GSPO, SDPO, SFT
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.types import Sampling
from tests.loggers import InFolder


class Toy(Task):
    """Rows of different lengths; a completion is right or not by its number of characters."""

    def __init__(self, name="toy", size=12, score=lambda text: float(len(text) % 2)):
        super().__init__(name)
        self.size, self.score = size, score

    def rows(self, split):
        return [
            Row(
                id=f"{split}-{n}",
                messages=[{"role": "user", "content": f"{self.name} {split} {'x' * (7 * n % 11)} {n}?"}],
                ground_truth=str(n),
                reference="yes " * (n % 4) + str(n),
            )
            for n in range(self.size)
        ]

    def verify(self, completion, row):
        return Verdict(self.score(completion))


def parity(prompts, completions, completion_ids, **columns):
    return [float(sum(ids) % 2) for ids in completion_ids]


def lively():
    """Rewards of 0 and 1 on any task, whatever its verifier says."""
    return WeightedRewards({"parity": parity}, {"verifier": 0.0})


def sgd(parameters, lr=0.5):
    return torch.optim.SGD(parameters, lr=lr)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


class Watch(pl.Callback):
    """Keeps everything that was generated."""

    def __init__(self):
        self.seen = []

    def on_rollouts(self, trainer, pl_module, rollouts, *, task, split, stage, step):
        modes = {module.training for module in pl_module.policy.modules()}
        self.seen.append(
            {"task": task, "split": split, "stage": stage, "step": step, "rollouts": rollouts, "modes": modes}
        )

    def of(self, split):
        return [entry for entry in self.seen if entry["split"] == split]


def method(kind, model, **options):
    options = {"optimizer": sgd, "scheduler": None} | options
    if kind == "sdpo":
        options = {"reprompt": Reprompt(allow_truncated=True)} | options
    return {"cispo": CISPO, "grpo": GRPO, "gspo": GSPO, "sdpo": SDPO, "sft": SFT}[kind](model, **options)


def rollout_callback(**options):
    settings = {"num_generations": 4, "sampling": Sampling(max_new_tokens=6), "seed": 5}
    return RolloutCallback(**(settings | options))


def toy_data(tasks=("toy",), steps=1, prompts=3, **options):
    settings = {"eval_prompts": 4, "eval_generations": 2, "seed": 3}
    made = {name: name if isinstance(name, Task) else Toy(name) for name in tasks}
    stages = [Stage(task=made[name], steps=steps, prompts_per_step=prompts) for name in tasks]
    return ContinualDataModule(stages, **(settings | options))


def trainer(tmp_path, data, *callbacks, **options):
    settings = {
        **data.trainer_arguments(),
        "accelerator": "cpu",
        "logger": InFolder(tmp_path),
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
        "limit_val_batches": 0,
    }
    return pl.Trainer(callbacks=list(callbacks), **(settings | options))


def fit(tmp_path, module, data, *callbacks, rollout=None, ckpt_path=None, **options):
    """Evaluates with ``limit_val_batches=1.0``, and then everything; else there is nothing to evaluate."""
    if not options.get("limit_val_batches"):
        data = copy.copy(data)
        data.evaluate_trained, data.probes = False, []
    made = trainer(tmp_path, data, rollout or rollout_callback(), *callbacks, **options)
    made.fit(module, data, ckpt_path=ckpt_path)
    return made


def weights(module):
    return {name: p.detach().clone() for name, p in module.policy.named_parameters()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def step_gradient(tmp_path, kind, model, *callbacks, data=None, rollout=None, slots=1, lr=0.5, **options):
    """What one optimizer step's gradient was, from the weights that plain SGD left behind, and the module."""
    module = method(kind, model, optimizer=lambda parameters: sgd(parameters, lr), **options)
    module.configure_model()
    before = weights(module)
    fit(tmp_path, module, data or toy_data(), *callbacks, rollout=rollout, accumulate_grad_batches=slots)
    after = weights(module)
    return {name: (before[name] - after[name]).double() / lr for name in before}, module


def assert_close_gradients(a, b, rtol=1e-4):
    """Relative to the largest entry of all: a weight's rounding hides small ones."""
    scale = max(g.abs().max() for g in b.values())
    assert scale > 1e-4
    for name in b:
        torch.testing.assert_close(
            a[name], b[name], rtol=rtol, atol=float(rtol * scale), msg=lambda m, n=name: f"{n}: {m}"
        )


def row_logits(model, prompt, ids):
    """Logits of a completion's tokens from a plain forward of one row without padding, [T, V]."""
    return model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
