from __future__ import annotations

import csv

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger

from lit_sdpo.callbacks.initial_evaluation import InitialEvaluation
from tests.callbacks.scripted import Scripted, Stream, trainer


class Save(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path / f"{trainer.current_epoch}.ckpt")


def test_it_evaluates_once_before_the_first_step_and_leaves_training_mode(tmp_path):
    states = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            states.append((trainer.training, pl_module.training))

    module = Scripted()
    trainer(tmp_path, InitialEvaluation(), Look()).fit(module, Stream())
    assert module.asked == [(step, False, False) for step in (0, 0, 3, 3, 6, 6, 9, 9)]
    assert set(states) == {(True, True)}


def test_what_it_evaluates_is_logged_at_step_zero(tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    trainer(tmp_path, InitialEvaluation(), logger=logger).fit(Scripted(), Stream())
    lines = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    first = next(line for line in lines if line["val/math/accuracy"])
    assert (first["step"], float(first["val/math/accuracy"])) == ("0", pytest.approx(0.1))


def test_a_resumed_run_is_not_evaluated_again(tmp_path):
    trainer(tmp_path, InitialEvaluation(), Save(tmp_path)).fit(Scripted(), Stream())
    module = Scripted()
    trainer(tmp_path, InitialEvaluation()).fit(module, Stream(), ckpt_path=tmp_path / "0.ckpt")
    assert [step for step, _, _ in module.asked] == [6, 6, 9, 9]


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"limit_train_batches": 0}])
def test_switched_off_loops_stay_off(tmp_path, options):
    module = Scripted()
    trainer(tmp_path, InitialEvaluation(), **options).fit(module, Stream())
    assert module.asked == []


def test_c04_the_result_of_training_does_not_depend_on_it(tmp_path):
    weights = []
    for callbacks in ([], [InitialEvaluation()]):
        module = Scripted()
        trainer(tmp_path, *callbacks).fit(module, Stream())
        weights.append(module.weight.item())
    assert weights[0] == weights[1]
