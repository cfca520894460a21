"""CollapseMonitor in a project that knows nothing of this package: a loss and an entropy that go wrong on purpose."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lit_sdpo.callbacks.responses.collapse import CollapseMonitor
from tests.loggers import InFolder

METRICS = {"reward": "score", "entropy": "policy_entropy"}


class Policy(pl.LightningModule):
    def __init__(self, fails_at=20) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def training_step(self, batch, batch_idx):
        failing = self.global_step >= self.fails_at
        self.log("score", 0.4 if failing else 0.9)
        self.log("policy_entropy", 0.3 if failing else 0.1)
        return (self.weight - batch).square().sum()

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.weight.sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(torch.ones(40, 3))

    val_dataloader = train_dataloader


class Save(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.current_epoch}.ckpt")


def fit(tmp_path, *callbacks, module=None, ckpt_path=None, **options):
    settings = {"max_epochs": 1, "logger": InFolder(tmp_path), "enable_checkpointing": False, "accelerator": "cpu"}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    module = module or Policy()
    trainer = pl.Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **(settings | options))
    trainer.fit(module, ckpt_path=ckpt_path)
    return module, trainer


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}, {"accumulate_grad_batches": 2, "max_epochs": 2}])
def test_it_stops_a_run_that_collapses(tmp_path, options, capsys):
    monitor = CollapseMonitor(["stop"], METRICS, stage_per_epoch=False)
    _, trainer = fit(tmp_path, monitor, **options)
    assert [alarm["step"] for alarm in monitor.alarms] == [25] == [trainer.global_step]
    assert "the reward falls (0.9 to 0.4); entropy rises again (0.1 to 0.3)" in capsys.readouterr().out


def test_two_loggers(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")]
    with pytest.warns(UserWarning, match="collapsing at step 25"):
        fit(tmp_path, CollapseMonitor(metrics=METRICS), logger=loggers)
    events = EventAccumulator(str(tmp_path / "board"), {"scalars": 0, "tensors": 0}).Reload()
    states = [event.value for event in events.Scalars("health/state")]
    assert len(states) == 40
    assert states[-1] == 2.0
    assert states.index(2.0) == 24
    assert [event.step for event in events.Tensors("health/alarm/text_summary")] == [25]
    assert "health/state" in (tmp_path / "table" / "metrics.csv").read_text()


def test_fast_dev_run_leaves_no_files(tmp_path):
    fit(tmp_path, CollapseMonitor(["save", "stop"], METRICS), fast_dev_run=True)
    assert not list(tmp_path.iterdir())


def test_nothing_that_it_knows_is_logged(tmp_path):
    monitor = CollapseMonitor()
    fit(tmp_path, monitor)
    assert monitor.health.state == "healthy"


def test_it_changes_nothing(tmp_path):
    plain, _ = fit(tmp_path)
    watched, _ = fit(tmp_path, CollapseMonitor([], METRICS))
    assert torch.equal(plain.weight, watched.weight)


def test_resume_goes_on_exactly(tmp_path):
    def monitor():
        return CollapseMonitor([], METRICS, stage_per_epoch=False)

    whole, resumed = monitor(), monitor()
    fit(tmp_path, whole, Save(), module=Policy(fails_at=38), max_epochs=2)
    assert [alarm["step"] for alarm in whole.alarms] == [43]
    fit(tmp_path, resumed, module=Policy(fails_at=38), max_epochs=2, ckpt_path=tmp_path / "0.ckpt")
    assert resumed.state_dict() == whole.state_dict()


def test_epochs_are_stages_by_default(tmp_path):
    monitor = CollapseMonitor([], METRICS)
    fit(tmp_path, monitor, module=Policy(fails_at=40), max_epochs=2)
    assert monitor.alarms == []
