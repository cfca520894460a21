"""F25: a run that is stopped inside a stage goes on there, whatever stopped it, and ends as if it had not been."""

import logging

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import EarlyStopping, Timer

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.errors import UserError
from tests.faults.runs import assert_same, final, model, stream, train


class Stop(pl.Callback):
    """Asks for a stop at a batch, counted over all stages, in a hook of its own."""

    def __init__(self, batch, hook="on_train_batch_end"):
        self.batch = batch
        setattr(self, hook, self.ask)

    def ask(self, trainer, *arguments):
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.batch:
            trainer.should_stop = True


class Short(Timer):
    """A clock that is over after some batches."""

    def __init__(self, batches):
        super().__init__({"hours": 1})
        self.batches = batches

    def on_train_batch_end(self, trainer, *arguments, **options):
        self.batches -= 1
        if self.batches == 0:
            self._duration = 0.0
        super().on_train_batch_end(trainer, *arguments, **options)


def ends_with(module, hook):
    """A module whose own hook, which comes after those of the callbacks, stops the run."""

    def ask(*arguments, **options):
        if module.trainer.global_step in (1, 2):
            module.trainer.should_stop = True

    setattr(module, hook, ask)
    return module


def run(tiny, folder, *callbacks, updates=1, module=None, **options):
    module = module or model(tiny)
    checkpoint = StageCheckpoint()
    trainer = train(folder, module, stream(updates_per_rollout=updates), *callbacks, checkpoint=checkpoint, **options)
    return final(trainer, module)


def names(folder):
    return {path.stem for path in (folder / "checkpoints").glob("*.ckpt")}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    return {n: run(tiny, tmp_path_factory.mktemp("whole"), updates=n) for n in (1, 2)}


@pytest.mark.parametrize(
    ("stop", "updates", "saved"),
    [
        (lambda: Stop(1), 1, 1),  # inside a window of two slices
        (lambda: Stop(3, "on_train_batch_start"), 1, 2),  # 2 is evaluated
        (lambda: Stop(4, "on_validation_end"), 1, 2),
        (lambda: Stop(1), 2, 2),  # the rollouts have one more update to come
        (lambda: Stop(13), 1, 7),
        (lambda: Short(9), 1, 5),
        (lambda: EarlyStopping("val/a/length", check_on_train_epoch_end=False, stopping_threshold=1e9), 1, 0),
    ],
)
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # what stopped it is not there again
def test_f25_a_stop_inside_a_stage(tiny, whole, tmp_path, caplog, stop, updates, saved):
    with caplog.at_level(logging.INFO):
        run(tiny, tmp_path, stop(), updates=updates)
    expected = {f"step={saved}"} if saved else set()
    assert names(tmp_path) == ({"stage=0-step=4"} | expected if saved > 4 else expected)
    assert "The run was stopped" in caplog.text
    if saved:
        path = tmp_path / "checkpoints" / f"step={saved}.ckpt"
        found = run(tiny, tmp_path, updates=updates, ckpt_path=path)
        del found["random"]
        assert_same(found, {name: value for name, value in whole[updates].items() if name != "random"})


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end"])
def test_f25_a_stop_after_the_callbacks_hooks(tiny, whole, tmp_path, hook):
    run(tiny, tmp_path, module=ends_with(model(tiny), hook), slots=1)
    (saved,) = names(tmp_path)
    assert saved in ("step=1", "step=2")
    found = run(tiny, tmp_path, slots=1, ckpt_path=tmp_path / "checkpoints" / f"{saved}.ckpt")
    assert found["step"] == 8
    assert_same(found["matrix"]["rows"], whole[1]["matrix"]["rows"])


def test_f25_a_stop_at_the_end_of_a_stage(tiny, whole, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run(tiny, tmp_path, Stop(7))  # inside the last window
    assert names(tmp_path) == {"stage=0-step=4"}
    assert "after 1 of 2 stages" in caplog.text
    found = run(tiny, tmp_path, ckpt_path=tmp_path / "checkpoints" / "stage=0-step=4.ckpt")
    assert_same(found, whole[1])


def test_f25_a_stop_before_enough_epochs_waits(tiny, tmp_path):
    run(tiny, tmp_path, Stop(2), min_epochs=1)
    assert names(tmp_path) == {"stage=0-step=4"}


def test_f25_a_time_that_is_over_is_an_error(tiny, tmp_path):
    run(tiny, tmp_path, Short(2))
    spent = Timer({"seconds": 1})
    spent.load_state_dict({"time_elapsed": {"train": 3600}})
    with pytest.raises(UserError, match=r"trainer.max_time: the time is over before the first step"):
        run(tiny, tmp_path, spent)
