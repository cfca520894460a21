"""The callbacks in a project that knows nothing of this package: a classifier of tiny random images."""

from __future__ import annotations

import csv
import json
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from lit_sdpo.callbacks.forgetting import ForgettingMatrix
from lit_sdpo.callbacks.initial_evaluation import InitialEvaluation
from tests.loggers import InFolder

TASKS = ["cats", "dogs"]


def loader(task: int) -> DataLoader:
    generator = torch.Generator().manual_seed(task)
    images = torch.randn(12, 1, 4, 4, generator=generator)
    return DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long() ^ task), batch_size=4)


class Classifier(pl.LightningModule):
    """Two tasks with opposite labels: learning one must forget the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(16, 2)

    def forward(self, images):
        return self.layer(images.flatten(1))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        accuracy = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log(f"acc_{TASKS[dataloader_idx]}", accuracy, add_dataloader_idx=False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self):
        return loader(self.trainer.current_epoch % 2)

    def val_dataloader(self):
        return [loader(0), loader(1)]


def fit(tmp_path, ckpt_path=None, **options):
    matrix = ForgettingMatrix(metric="acc_{task}", tasks=TASKS)
    extra = options.pop("callbacks", [])
    settings = {"max_epochs": 2, "logger": InFolder(tmp_path), "enable_checkpointing": False, "accelerator": "cpu"}
    settings |= {"reload_dataloaders_every_n_epochs": 1, "enable_progress_bar": False, "log_every_n_steps": 1}
    settings |= {"enable_model_summary": False, "default_root_dir": tmp_path} | options
    trainer = pl.Trainer(callbacks=[InitialEvaluation(), matrix, *extra], **settings)
    model = Classifier()
    trainer.fit(model, ckpt_path=ckpt_path)
    return matrix, model


def accuracies(model):
    with torch.no_grad():
        sets = [loader(task).dataset.tensors for task in (0, 1)]
        return [(model(images).argmax(1) == labels).float().mean().item() for images, labels in sets]


def same(a, b):
    return json.dumps(a.state_dict()) == json.dumps(b.state_dict())


def test_rows_are_the_accuracies_before_and_after_each_stage(tmp_path, capsys):
    matrix, model = fit(tmp_path)
    rows = matrix.matrix.rows
    assert [(row.stage, row.label, row.step) for row in rows] == [(0, "base", 0), (1, "cats", 3), (2, "dogs", 6)]
    assert [rows[0].scores[t] for t in TASKS] == pytest.approx(accuracies(Classifier()))
    assert [rows[2].scores[t] for t in TASKS] == pytest.approx(accuracies(model))
    assert rows[1].scores["cats"] > rows[2].scores["cats"]
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert written["rows"][2]["scores"] == dict(rows[2].scores)
    assert written["summary"]["bwt"] == pytest.approx(rows[2].scores["cats"] - rows[1].scores["cats"])
    assert written["summary"]["ood_change"] is None
    table = list(csv.DictReader((tmp_path / "matrix.csv").read_text().splitlines()))
    assert [float(line["dogs"]) for line in table] == [row.scores["dogs"] for row in rows]
    printed = capsys.readouterr().out
    assert printed.count("1 cats") == 1
    assert "bwt" in printed


def test_evaluations_inside_a_stage_are_not_rows(tmp_path):
    plain, _ = fit(tmp_path)
    often, _ = fit(tmp_path, val_check_interval=1)
    without, inside = plain.state_dict(), often.state_dict()
    assert without.pop("inside") == []
    assert inside.pop("inside")
    assert json.dumps(without) == json.dumps(inside)


def test_c05_the_sanity_check_is_not_a_row(tmp_path):
    plain, _ = fit(tmp_path)
    checked, _ = fit(tmp_path, num_sanity_val_steps=1)
    assert same(plain, checked)


def test_c05_fast_dev_run_leaves_no_files(tmp_path):
    matrix, _ = fit(tmp_path, fast_dev_run=True, logger=True)
    assert len(matrix.matrix.rows) == 2
    assert not list(tmp_path.iterdir())


def test_without_validation_there_is_no_matrix(tmp_path, capsys):
    matrix, _ = fit(tmp_path, limit_val_batches=0)
    assert matrix.matrix.rows == []
    assert not list(tmp_path.iterdir())
    assert "bwt" not in capsys.readouterr().out


def test_c02_a_stage_that_is_not_evaluated_is_nan(tmp_path):
    matrix, _ = fit(tmp_path, check_val_every_n_epoch=2)
    assert math.isnan(matrix.matrix.score(1, "cats"))
    assert matrix.matrix.rows[1].step is None
    assert matrix.matrix.rows[2].step == 6
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert written["rows"][1]["scores"] == {"cats": None, "dogs": None}
    assert written["summary"]["bwt"] is None


def test_c05_two_loggers(tmp_path):
    board, table = TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")
    matrix, _ = fit(tmp_path, logger=[board, table])
    folder = tmp_path / "board"
    assert (folder / "matrix.json").exists()
    events = EventAccumulator(str(folder), {"tensors": 0, "images": 0, "scalars": 0}).Reload()
    rows = matrix.matrix.rows
    means = [sum(row.scores.values()) / 2 for row in rows]
    scalars = events.Scalars("continual/average_accuracy")
    assert [event.step for event in scalars] == [0, 3, 6]
    assert [event.value for event in scalars] == pytest.approx(means)
    assert [event.step for event in events.Scalars("continual/bwt")] == [6]
    assert "continual/ood_change" not in events.Tags()["scalars"]
    assert [image.step for image in events.Images("continual/matrix")] == [0, 3, 6]
    text = events.Tensors("continual/matrix/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text == matrix.matrix.markdown()
    lines = list(csv.DictReader((tmp_path / "table" / "metrics.csv").read_text().splitlines()))
    assert [float(x["continual/average_accuracy"]) for x in lines if x["continual/average_accuracy"]] == pytest.approx(
        means
    )


class SaveEachEpoch(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def test_resume_is_exact(tmp_path):
    whole, _ = fit(tmp_path / "whole", callbacks=[SaveEachEpoch(tmp_path)])
    resumed, _ = fit(tmp_path / "resumed", ckpt_path=tmp_path / "0.ckpt")
    assert same(whole, resumed)
    texts = [(tmp_path / name / "matrix.json").read_text() for name in ("whole", "resumed")]
    assert texts[0] == texts[1]


def test_a_wrong_pattern_is_named(tmp_path):
    matrix = ForgettingMatrix(metric="accuracy/{task}")
    trainer = pl.Trainer(
        max_epochs=1,
        logger=InFolder(tmp_path),
        enable_checkpointing=False,
        callbacks=[matrix],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    with pytest.warns(UserWarning, match=r"no metric 'accuracy/\{task\}'.*acc_cats"):
        trainer.fit(Classifier())
