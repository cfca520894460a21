"""Small runs that save at every step, and everything of them that has to be the same after a resume."""

from __future__ import annotations

import json
import random
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

from lit_sdpo.callbacks import ForgettingMatrix, InitialEvaluation, SampleLogger, StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.optimizers import WarmupConstant
from lit_sdpo.policies.teachers import EMATeacher
from tests.training import adamw, fit, lively, method, rollout_callback, toy_data


class Draws(pl.Callback):
    """Draws from the global generators in every step, as dropout would."""

    def __init__(self):
        self.drawn = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
        self.drawn[trainer.current_epoch, batch_idx] = drawn


class Logged(pl.Callback):
    """What the trainer logs at each step."""

    def __init__(self):
        self.values = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.keep(trainer)

    def on_train_end(self, trainer, pl_module):
        self.keep(trainer)

    def keep(self, trainer):
        values = {k: float(v) for k, v in trainer.logged_metrics.items()}
        self.values[trainer.current_epoch, trainer.global_step] = {
            k: v for k, v in values.items() if "time" not in k and "per_second" not in k
        }


def model(tiny, kind="sdpo", **options):
    made = {"teacher": EMATeacher(0.3)} if kind == "sdpo" else {}
    made |= {"optimizer": adamw, "scheduler": lambda o: WarmupConstant(o, warmup_steps=3)}
    return method(kind, tiny, **(made | options))


def stream(**options):
    return toy_data(**({"tasks": ["a", "b"], "steps": 4, "eval_every": 2} | options))


def train(folder, module, data, *callbacks, ckpt_path=None, checkpoint=None, slots=2, **options):
    """Returns the trainer; checkpoints, matrix and samples are in ``folder``."""
    pl.seed_everything(7, verbose=False)
    made = [
        InitialEvaluation(),
        ForgettingMatrix(),
        SampleLogger(every_n_steps=1),
        checkpoint or StageCheckpoint(every_n_steps=1, keep_steps=100),
        *callbacks,
    ]
    settings = {
        "accumulate_grad_batches": slots,
        "limit_val_batches": 1.0,
        "enable_checkpointing": True,
        "plugins": [SafeCheckpointIO()],
    }
    rollout = rollout_callback(rewards=lively())
    return fit(folder, module, data, *made, rollout=rollout, ckpt_path=ckpt_path, **(settings | options))


def final(trainer, module):
    """All state of a finished run that decides or reports anything."""
    (optimizer,) = trainer.optimizers
    folder = Path(trainer.default_root_dir)
    return {
        "weights": dict(module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
        "matrix": json.loads((folder / "matrix.json").read_text()),
        "samples": (folder / "samples.jsonl").read_text(),
        "step": trainer.global_step,
    }


def assert_same(a, b, where=""):
    """Bit for bit, in nested values."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for n, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{where}/{n}")
    else:
        assert a == b or (a != a and b != b), where
