"""ParameterDrift in a project that knows nothing of this package: a classifier of tiny random images."""

from __future__ import annotations

import csv
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from lit_sdpo.callbacks.weights.drift import ParameterDrift
from tests.loggers import InFolder


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.head = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.head(self.conv(images).flatten(1)), labels)

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(12, 1, 6, 6, generator=generator)
        return DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), batch_size=4)

    val_dataloader = train_dataloader


def fit(tmp_path, *callbacks, ckpt_path=None, module=None, **options):
    settings = {"max_epochs": 2, "logger": InFolder(tmp_path), "enable_checkpointing": False, "accelerator": "cpu"}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    module = module or Classifier()
    trainer = pl.Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **(settings | options))
    trainer.fit(module, ckpt_path=ckpt_path)
    return module


def lines(folder):
    return list(csv.DictReader((folder / "drift.csv").read_text().splitlines()))


def test_a_line_per_stage_and_matrix(tmp_path):
    drift = ParameterDrift()
    module = fit(tmp_path, drift)
    table = lines(tmp_path)
    names = ["conv.weight", "head.0.weight", "head.2.weight"]
    assert [(x["step"], x["stage"], x["name"]) for x in table] == [
        (step, stage, name) for step, stage in (("3", "1"), ("6", "2")) for name in names
    ]
    assert [(x["type"], x["layer"]) for x in table[:3]] == [("conv", ""), ("head", "0"), ("head", "2")]
    before, after = Classifier().head[0].weight, module.head[0].weight
    assert float(table[4]["relative_norm"]) == pytest.approx(((after - before).norm() / before.norm()).item())
    shift = torch.linalg.svdvals(after) - torch.linalg.svdvals(before)
    expected = (shift.norm() / torch.linalg.svdvals(before).norm()).item()
    assert float(table[4]["spectrum_shift"]) == pytest.approx(expected, rel=1e-4)
    assert (tmp_path / "drift.md").read_text().count("\n| head |") == 1


def test_it_changes_nothing(tmp_path):
    plain = fit(tmp_path / "without")
    state = torch.random.get_rng_state()
    watched = fit(tmp_path / "with", ParameterDrift(every_n_steps=1))
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_n_steps_and_the_ends_of_stages(tmp_path):
    fit(tmp_path, ParameterDrift(every_n_steps=2), accumulate_grad_batches=1)
    assert [int(x["step"]) for x in lines(tmp_path)[::3]] == [2, 3, 4, 6]
    fit(tmp_path / "slots", ParameterDrift(every_n_steps=1), accumulate_grad_batches=3)
    assert [int(x["step"]) for x in lines(tmp_path / "slots")[::3]] == [1, 2]


def test_fast_dev_run_leaves_no_files(tmp_path):
    drift = ParameterDrift()
    fit(tmp_path, drift, fast_dev_run=True)
    assert len(drift.rows) == 3
    assert not list(tmp_path.iterdir())


def test_it_needs_no_validation(tmp_path):
    fit(tmp_path, ParameterDrift(), limit_val_batches=0)
    assert len(lines(tmp_path)) == 6


def test_two_loggers(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")]
    drift = ParameterDrift()
    fit(tmp_path, drift, logger=loggers)
    events = EventAccumulator(str(tmp_path / "board"), {"tensors": 0, "scalars": 0}).Reload()
    heads = [row.drift.relative_norm for row in drift.rows if row.kind == "head"]
    scalars = events.Scalars("drift/parameters/head/relative_norm")
    assert [event.step for event in scalars] == [3, 6]
    assert [event.value for event in scalars] == pytest.approx([sum(heads[:2]) / 2, sum(heads[2:]) / 2])
    assert 0 < events.Scalars("drift/parameters/relative_norm")[-1].value < math.inf
    assert len(events.Tensors("drift/parameters/text_summary")) == 2
    table = list(csv.DictReader((tmp_path / "table" / "metrics.csv").read_text().splitlines()))
    assert [x["step"] for x in table if x["drift/parameters/head/relative_norm"]] == ["3", "6"]
    assert len(lines(tmp_path / "board")) == 6


class Save(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / "checkpoints" / f"{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("moved", [False, True])
def test_resume_goes_on_from_the_same_start(tmp_path, moved):
    whole = tmp_path / "whole"
    fit(whole, ParameterDrift(), Save(whole))
    text = (whole / "drift.csv").read_text()
    if moved:
        whole = whole.rename(tmp_path / "elsewhere")
    fit(tmp_path / "resumed", ParameterDrift(), ckpt_path=whole / "checkpoints" / "0.ckpt")
    assert (tmp_path / "resumed" / "drift.csv").read_text().splitlines()[:4] == text.splitlines()[:4]
    assert not (tmp_path / "resumed" / "parameter_drift_base.pt").exists()
    before = Classifier().conv.weight
    saved = torch.load(whole / "parameter_drift_base.pt", weights_only=True)["weights"]["conv.weight"]
    assert torch.equal(saved, before)


@pytest.mark.parametrize("loss", ["missing", "another run's"])
def test_a_resumed_run_without_its_start_is_refused(tmp_path, loss):
    fit(tmp_path, ParameterDrift(), Save(tmp_path))
    if loss == "missing":
        (tmp_path / "parameter_drift_base.pt").unlink()
    else:
        fit(tmp_path, ParameterDrift())
    with pytest.raises(Exception, match=r"weights of the start of the run are not in .*parameter_drift_base.pt"):
        fit(tmp_path / "resumed", ParameterDrift(), ckpt_path=tmp_path / "checkpoints" / "0.ckpt")


def test_measuring_from_the_start_of_another_run(tmp_path):
    fit(tmp_path / "first", ParameterDrift(), Save(tmp_path))
    trained = Classifier.load_from_checkpoint(tmp_path / "checkpoints" / "1.ckpt", weights_only=True)
    base = str(tmp_path / "first" / "parameter_drift_base.pt")
    fit(tmp_path / "second", ParameterDrift(base=base), module=trained)
    last, first = lines(tmp_path / "first")[-1], lines(tmp_path / "second")[0]
    assert float(first["relative_norm"]) != float(last["relative_norm"])
    now = trained.conv.weight
    expected = ((now - Classifier().conv.weight).norm() / Classifier().conv.weight.norm()).item()
    assert float(lines(tmp_path / "second")[3]["relative_norm"]) == pytest.approx(expected)


def test_a_callback_that_is_new_to_a_resumed_run_says_so(tmp_path):
    fit(tmp_path, Save(tmp_path))
    with pytest.warns(UserWarning, match="measures from step 3 on"):
        fit(tmp_path / "resumed", ParameterDrift(), ckpt_path=tmp_path / "checkpoints" / "0.ckpt")
    assert len(lines(tmp_path / "resumed")) == 3


@pytest.mark.distributed
def test_two_processes(tmp_path):
    fit(tmp_path, ParameterDrift(), strategy="ddp_fork", devices=2, limit_val_batches=0)
    assert len(lines(tmp_path)) == 6
