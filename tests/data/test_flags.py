"""Every flag of the Trainer that would leave a part of the stream out is refused, with the real Trainer's values."""

import warnings
from datetime import timedelta

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lit_sdpo.errors import UserError
from tests.training import Toy, fit, method, rollout_callback, sgd, toy_data


def made(data, **flags):
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(**(data.trainer_arguments() | settings | flags))
    data.trainer = trainer
    return data


def named(flags):
    """What a case is called, the same in every process."""
    values = (value if isinstance(value, int | float | str) else type(value).__name__ for value in flags.values())
    return ", ".join(map("{}={}".format, flags, values)) or "none"


@pytest.mark.parametrize(
    "flags",
    [
        {"limit_train_batches": 1},
        {"limit_train_batches": 0},
        {"limit_train_batches": 0.5},
        {"limit_train_batches": 6},
        {"limit_val_batches": 0},
        {"limit_val_batches": 1},
        {"limit_val_batches": 0.5},
        {"check_val_every_n_epoch": 2},
        {"check_val_every_n_epoch": None},
        {"val_check_interval": 0.5},
        {"val_check_interval": 1},
        {"val_check_interval": 3},
        {"val_check_interval": timedelta(minutes=5)},
        {"overfit_batches": 1},
        {"max_steps": 3},
        {"max_epochs": 0},
        {"max_epochs": 3},
        {"min_epochs": 3},
        {"min_epochs": -1},
        {"min_steps": 13},
        {"accumulate_grad_batches": 0},
        {"accumulate_grad_batches": -2},
        {"log_every_n_steps": -1},
        {"callbacks": GradientAccumulationScheduler({1: 2})},
        {"reload_dataloaders_every_n_epochs": 0},
    ],
    ids=named,
)
def test_refused(flags):
    (flag,) = flags
    data = made(toy_data(["a", "b"], steps=6), **flags)
    with pytest.raises(UserError, match=rf"^trainer\.{flag}: .*\."):
        data.setup("fit")


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"limit_train_batches": 1.0, "limit_val_batches": 1.0, "limit_test_batches": 0},
        {"max_epochs": 1, "min_epochs": 1},
        {"min_steps": 12},
        {"accumulate_grad_batches": 5},
        {"val_check_interval": 1.0},
        {"fast_dev_run": True},
        {"num_sanity_val_steps": 2},
    ],
    ids=named,
)
def test_accepted(flags):
    made(toy_data(["a", "b"], steps=6), **flags).setup("fit")


def test_the_interval_that_the_data_set_themselves_is_accepted():
    data = made(toy_data(steps=6, eval_every=2), accumulate_grad_batches=3)
    data.trainer.fit_loop.epoch_progress.current.completed = 0
    data.setup("fit")
    data.train_dataloader()
    assert data.trainer.val_check_interval == 6
    data.setup("fit")


def test_nothing_to_evaluate_may_be_left_out():
    made(toy_data(evaluate_trained=False), limit_val_batches=0, check_val_every_n_epoch=3).setup("fit")
    with pytest.raises(UserError, match="limit_val_batches"):
        made(toy_data(evaluate_trained=False, probes=[Toy("probe")]), limit_val_batches=0).setup("fit")


@pytest.mark.parametrize(("stage", "flag"), [("validate", "limit_val_batches"), ("test", "limit_test_batches")])
def test_evaluation_alone_is_whole_too(stage, flag):
    with pytest.raises(UserError, match=rf"trainer\.{flag}: 2 would cut every evaluation"):
        made(toy_data(), **{flag: 2}).setup(stage)


class Recut(pl.Callback):
    """Changes the number of slices behind everybody's back."""

    def on_train_epoch_start(self, trainer, pl_module):
        trainer.accumulate_grad_batches = 3


def test_slices_that_change_inside_a_step_are_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="accumulate_grad_batches"):
        fit(tmp_path, method("grpo", tiny), toy_data(steps=2), Recut(), accumulate_grad_batches=2)


class Cut(pl.Callback):
    """Ends the first stage inside a step, as a limit would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 0 and batch_idx == 4:
            trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self):
        self.of_stage = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.slot == batch.slots - 1:
            self.of_stage.setdefault(trainer.current_epoch, []).append(float(trainer.callback_metrics["train/loss"]))


def test_the_tally_of_a_cut_step_is_dropped(tiny, tmp_path):
    def losses(*callbacks):
        seen = Losses()
        data = toy_data(["a", "b"], steps=2, prompts=4)
        still = method("sft", tiny, optimizer=lambda parameters: sgd(parameters, lr=0.0))
        fit(tmp_path, still, data, seen, *callbacks, rollout=rollout_callback(), accumulate_grad_batches=4)
        return seen.of_stage[1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert losses(Cut()) == pytest.approx(losses(), abs=1e-6)
