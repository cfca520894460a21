"""ArtifactMonitor in a project that knows nothing of this package: a module whose responses are written down."""

from __future__ import annotations

import csv
import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lit_sdpo.callbacks.responses.artifacts import ArtifactMonitor
from tests.loggers import InFolder

MARKERS = {"math": [r"\\boxed"], "code": ["```"]}
SAID = [
    {"math": [r"so \boxed{1}", r"then \boxed{2}", "no idea"], "code": ["```f```", "```g```", "so"]},
    {"math": [r"so \boxed{1}", r"\boxed{2} \boxed{2}"], "code": [r"\boxed{f}", "```g``` \\boxed{g}", "```h```", "x"]},
]


class Speaker(pl.LightningModule):
    def __init__(self, monitor: ArtifactMonitor | None, where: str = "validation") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.monitor, self.where = monitor, where
        self.weight = torch.nn.Parameter(torch.randn(2))

    def speak(self):
        for task, responses in SAID[self.current_epoch].items():
            if self.monitor is not None:
                self.monitor.observe(task, responses)

    def training_step(self, batch, batch_idx):
        if self.where == "training":
            self.speak()
        return (self.weight - batch).square().sum()

    def validation_step(self, batch, batch_idx):
        if self.where == "validation":
            self.speak()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(torch.ones(1, 2))

    val_dataloader = train_dataloader


def fit(folder, monitor, *callbacks, where="validation", ckpt_path=None, **options):
    settings = {"max_epochs": 2, "logger": InFolder(folder), "enable_checkpointing": False, "accelerator": "cpu"}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    module = Speaker(monitor, where)
    every = [*([monitor] if monitor is not None else []), *callbacks]
    pl.Trainer(callbacks=every, default_root_dir=folder, **(settings | options)).fit(module, ckpt_path=ckpt_path)
    return module


def lines(folder):
    return list(csv.DictReader((folder / "artifacts.csv").read_text().splitlines()))


@pytest.mark.parametrize("where", ["validation", "training"])
def test_a_line_per_epoch_and_task(tmp_path, where):
    fit(tmp_path, ArtifactMonitor(MARKERS), where=where)
    first, second, third, fourth = lines(tmp_path)
    assert [(x["step"], x["stage"], x["task"]) for x in (first, second, third, fourth)] == [
        ("1", "1", "math"),
        ("1", "1", "code"),
        ("2", "2", "math"),
        ("2", "2", "code"),
    ]
    assert float(first["leakage"]) == float(second["leakage"]) == float(third["leakage"]) == 0
    assert float(fourth["leakage"]) == 2 / 4
    assert float(first["format"]) == pytest.approx(2 / 3)
    assert float(fourth["format"]) == 2 / 4
    assert float(third["boxed"]) == 3 / 2
    assert float(fourth["foreign_markers"]) == 2 / 4
    assert float(first["amplified_z"]) == 0 < float(fourth["amplified_z"])
    last = json.loads((tmp_path / "artifacts.jsonl").read_text().splitlines()[-1])
    assert last["markers"] == {"```": 4 / 4, r"\\boxed": 2 / 4}
    assert last["ngrams"][0]["ngram"] in {r"\boxed", r"\boxed {"}


def test_it_changes_nothing(tmp_path):
    plain = fit(tmp_path / "without", None)
    state = torch.random.get_rng_state()
    watched = fit(tmp_path / "with", ArtifactMonitor(MARKERS))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(plain.weight, watched.weight)


def test_fast_dev_run_leaves_no_files(tmp_path):
    monitor = ArtifactMonitor(MARKERS)
    fit(tmp_path, monitor, fast_dev_run=True)
    assert len(monitor.rows) == 2
    assert not list(tmp_path.iterdir())


def test_without_validation_there_is_nothing_to_say(tmp_path):
    monitor = ArtifactMonitor(MARKERS)
    fit(tmp_path, monitor, limit_val_batches=0)
    assert monitor.rows == []


def test_two_loggers(tmp_path):
    fit(
        tmp_path,
        ArtifactMonitor(MARKERS),
        logger=[TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")],
    )
    events = EventAccumulator(str(tmp_path / "board"), {"tensors": 0, "scalars": 0}).Reload()
    assert [(e.step, e.value) for e in events.Scalars("artifacts/code/leakage")] == [(1, 0.0), (2, 0.5)]
    assert len(events.Scalars("time/artifacts")) == 2
    text = events.Tensors("artifacts/code/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "&#92;boxed" in text
    assert "artifacts/code/leakage" in (tmp_path / "table" / "metrics.csv").read_text()


class Save(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def test_the_base_survives_a_checkpoint(tmp_path):
    fit(tmp_path / "first", ArtifactMonitor(MARKERS), Save(tmp_path))
    fit(tmp_path / "resumed", ArtifactMonitor(MARKERS), ckpt_path=tmp_path / "0.ckpt")
    assert torch.load(tmp_path / "0.ckpt", weights_only=True)["callbacks"]["ArtifactMonitor"]["bases"]
    for name in ("artifacts.csv", "artifacts.jsonl"):
        assert (tmp_path / "first" / name).read_text() == (tmp_path / "resumed" / name).read_text()
