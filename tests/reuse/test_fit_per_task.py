"""One Trainer per task under the same callbacks, as most continual-learning projects do it."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from lit_sdpo import (
    ArtifactMonitor,
    CollapseMonitor,
    ExportPolicy,
    ForgettingMatrix,
    InitialEvaluation,
    MemoryBudget,
    ParameterDrift,
    SampleLogger,
    StageCheckpoint,
    UserError,
)
from lit_sdpo.callbacks.clock import StreamClock
from tests.loggers import InFolder
from tests.reuse.both_names import TASKS, classifier, loader

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
QUIET |= {"enable_checkpointing": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0}


def callbacks():
    watch = ArtifactMonitor(markers={"cats": ["cats"], "dogs": ["dogs"]})
    matrix = ForgettingMatrix(tasks=TASKS, stages=TASKS)
    monitor = CollapseMonitor(metrics={"entropy": "entropy"})
    return [InitialEvaluation(), matrix, ParameterDrift(), watch, monitor, StageCheckpoint()]


def trained(folder, fits, options=None):
    """Both tasks under the same callbacks; an epoch each, in as many Trainers as ``fits`` has entries."""
    used = callbacks()
    model = classifier("lightning.pytorch", used[3])
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=1.0)  # has no state to lose
    done = 0
    for epochs in fits:
        model.train_dataloader = lambda done=done: loader((done + model.trainer.current_epoch) % 2)
        settings = {
            "reload_dataloaders_every_n_epochs": 1,
            "logger": InFolder(folder),
            **QUIET,
            "enable_checkpointing": True,
        } | (options or {})
        trainer = pl.Trainer(max_epochs=epochs, callbacks=used, default_root_dir=folder, **settings)
        trainer.fit(model)
        done += epochs
    return used, trainer


def test_a_fit_per_task_measures_what_one_fit_does(tmp_path):
    (once, _), (twice, _) = trained(tmp_path / "once", [2]), trained(tmp_path / "twice", [1, 1])
    for name in ("matrix.json", "matrix.csv", "tasks.csv", "drift.csv", "artifacts.csv"):
        assert (tmp_path / "once" / name).read_text() == (tmp_path / "twice" / name).read_text(), name
    rows = twice[1].matrix.rows
    assert [(row.stage, row.label, row.step) for row in rows] == [(0, "base", 0), (1, "cats", 3), (2, "dogs", 6)]
    saved = [{p.name for p in (tmp_path / x / "checkpoints").iterdir()} for x in ("once", "twice")]
    assert saved[0] == saved[1]
    assert "stage=1-step=6.ckpt" in saved[0]
    assert [(row.step, row.stage) for row in twice[2].rows] == [(row.step, row.stage) for row in once[2].rows]


def test_without_files_too(tmp_path):
    used, _ = trained(tmp_path, [1, 1], {"fast_dev_run": True, "logger": False})
    assert [row.stage for row in used[1].matrix.rows] == [0, 1, 2]
    assert {row.stage for row in used[2].rows} == {1, 2}


def test_a_run_resumes_inside_the_second_fit(tmp_path):
    whole, _ = trained(tmp_path / "whole", [1, 1])
    used = callbacks()
    model = classifier("lightning.pytorch", used[3])
    folder = tmp_path / "whole" / "checkpoints"
    settings = {"logger": InFolder(tmp_path / "whole"), **QUIET, "enable_checkpointing": True}
    trainer = pl.Trainer(max_epochs=1, callbacks=used, **settings)
    trainer.fit(model, ckpt_path=str(folder / "stage=1-step=6.ckpt"))
    assert json.dumps(used[1].state_dict()) == json.dumps(whole[1].state_dict())


def test_the_same_trainer_again_goes_on_as_before(tmp_path):
    matrix = ForgettingMatrix(tasks=TASKS, stages=TASKS)
    trainer = pl.Trainer(max_epochs=1, callbacks=[InitialEvaluation(), matrix], logger=InFolder(tmp_path), **QUIET)
    model = classifier("lightning.pytorch")
    trainer.fit(model)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model)
    assert [(row.stage, row.step) for row in matrix.matrix.rows] == [(0, 0), (1, 3), (2, 6)]


class TaskData(pl.LightningDataModule):
    """A task of its own."""

    def __init__(self, task):
        super().__init__()
        self.task_names = self.stage_names = [task]

    def train_dataloader(self):
        return loader(TASKS.index(self.task_names[0]))

    def val_dataloader(self):
        return [loader(0), loader(1)]


def test_stages_are_those_of_the_data_modules_one_after_the_other(tmp_path):
    matrix, model = ForgettingMatrix(), classifier("lightning.pytorch")
    for task in TASKS:
        trainer = pl.Trainer(max_epochs=1, callbacks=[InitialEvaluation(), matrix], logger=InFolder(tmp_path), **QUIET)
        trainer.fit(model, TaskData(task))
    assert matrix.matrix.tasks == TASKS
    assert [row.label for row in matrix.matrix.rows] == ["base", *TASKS]
    assert matrix.matrix.trained(2, "dogs")


def test_counts_that_go_back_are_refused():
    clock = StreamClock()
    at = SimpleNamespace(ckpt_path="some.ckpt", current_epoch=1, global_step=7)
    clock.see(at)
    at.global_step = 4
    clock.start(at)  # resumes, but what was seen is not of that checkpoint
    with pytest.raises(UserError, match=r"goes on from step 3.*up to step 7"):
        clock.see(at)


def test_a_loss_as_metric_has_the_right_signs(tmp_path):
    """Cats are learned, then lost to dogs: the loss of cats falls and rises."""

    class Losses(pl.Callback):
        values = iter([(3.0, 3.0), (1.0, 3.5), (2.5, 0.5)])

        def on_validation_epoch_end(self, trainer, pl_module):
            for task, value in zip(TASKS, next(self.values), strict=True):
                pl_module.log(f"val/{task}/loss", value)

    matrix = ForgettingMatrix("val/{task}/loss", tasks=TASKS, stages=TASKS, mode="min")
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[Losses(), InitialEvaluation(), matrix], logger=InFolder(tmp_path), **QUIET
    )
    trainer.fit(classifier("lightning.pytorch"))
    summary = json.loads((tmp_path / "matrix.json").read_text())["summary"]
    assert summary["bwt"] == pytest.approx(-1.5)
    assert summary["forgetting"] == pytest.approx(1.5)
    assert summary["average_accuracy"] == pytest.approx(1.5)


class FusedLora(torch.nn.Module):
    """As litgpt's ``LoRAQKVLinear``: updates of queries and values in one layer, none of keys."""

    def __init__(self, width=4, rank=2):
        super().__init__()
        self.linear = torch.nn.Linear(width, 3 * width, bias=False).requires_grad_(False)
        self.lora_A = torch.nn.Parameter(torch.randn(2 * rank, width))
        self.lora_B = torch.nn.Parameter(torch.zeros(2 * width, rank))
        self.scaling, self.merged = 0.5, False

    def get_lora_AB(self):
        a, b = self.lora_A.data.chunk(2), self.lora_B.data.chunk(2)
        parts = [b[0] @ a[0], torch.zeros_like(b[0] @ a[0]), b[1] @ a[1]]
        return self.scaling * torch.cat(parts)

    def forward(self, x):
        a, b = self.lora_A.chunk(2), self.lora_B.chunk(2)
        none = torch.zeros(b[0].shape[0], x.shape[-1])
        return self.linear(x) + self.scaling * x @ torch.cat([b[0] @ a[0], none, b[1] @ a[1]]).T


def test_drift_of_litgpts_adapters_is_that_of_the_merged_weight(tmp_path):
    class Model(BoringModel):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Sequential(torch.nn.Linear(32, 4).requires_grad_(False), FusedLora())

    model, drift = Model(), ParameterDrift()
    layer = model.layer[1]
    before = layer.linear.weight + layer.get_lora_AB()
    pl.Trainer(max_epochs=1, limit_train_batches=3, callbacks=[drift], logger=InFolder(tmp_path), **QUIET).fit(model)
    after = layer.linear.weight + layer.get_lora_AB()
    (line,) = csv.DictReader((tmp_path / "drift.csv").read_text().splitlines())
    assert line["name"] == "layer.1.weight"
    assert float(line["relative_norm"]) == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    assert float(line["relative_norm"]) > 0


def test_who_has_nothing_to_do_says_so_at_the_start(tmp_path, caplog):
    used = [SampleLogger(), ArtifactMonitor(markers={"a": ["b"]}), MemoryBudget()]
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        pl.Trainer(max_epochs=1, callbacks=used, logger=InFolder(tmp_path), **QUIET).fit(
            classifier("lightning.pytorch")
        )
    said = caplog.text
    assert "SampleLogger is shown no rollouts" in said
    assert "ArtifactMonitor is shown no rollouts, as there is no RolloutCallback: it sees what its observe()" in said
    assert "MemoryBudget has nothing to estimate" in said


@pytest.mark.parametrize(
    ("callback", "match"),
    [(MemoryBudget(gib=1), "step without rollouts"), (ExportPolicy(), "no policy and no tokenizer")],
)
def test_who_cannot_work_refuses_before_the_first_step(tmp_path, callback, match):
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback], logger=InFolder(tmp_path), **QUIET)
    with pytest.raises(UserError, match=match):
        trainer.fit(classifier("lightning.pytorch"))
    assert trainer.global_step == 0
