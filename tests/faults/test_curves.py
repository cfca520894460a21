"""F29: what was logged stays logged, through a kill and a resume; F03: a disk that is full in any other file."""

import csv

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_sdpo.callbacks import TensorBoardLayout
from lit_sdpo.report.events import scalars
from tests.faults.runs import model, stream, train


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing of it is caught."""


class Kill(pl.Callback):
    """Ends the run right after a checkpoint, before that step's values reach a logger."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == self.step:
            trainer.save_checkpoint = self.saved(trainer.save_checkpoint)

    def saved(self, save):
        def then_die(*arguments, **options):
            save(*arguments, **options)
            raise Killed

        return then_die


def logger(kind, folder):
    return kind(folder, "", "", **({} if kind is TensorBoardLogger else {"flush_logs_every_n_steps": 1000}))


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{name: x for name, x in row.items() if x and not _clock(name)} for row in csv.DictReader(file)]
    return [row for row in rows if len(row) > 2]


def _clock(name):
    return "time" in name or "per_second" in name


def points(folder):
    return {tag: values for tag, values in scalars(folder).items() if not _clock(tag)}


@pytest.fixture(scope="module", params=[CSVLogger, TensorBoardLogger])
def whole(request, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(folder, model(tiny), stream(), TensorBoardLayout(), logger=logger(request.param, folder))
    return request.param, (table if request.param is CSVLogger else points)(folder)


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
@pytest.mark.parametrize("step", [3, 2, 4])
def test_f29_a_kill_right_after_a_checkpoint_leaves_no_hole(tiny, tmp_path, whole, step):
    """3 is inside a stage, 2 is evaluated, 4 ends a stage."""
    kind, expected = whole
    with pytest.raises(Killed):
        train(tmp_path, model(tiny), stream(), TensorBoardLayout(), Kill(step), logger=logger(kind, tmp_path))
    name = "stage=0-step=4" if step == 4 else f"step={step}"
    path = tmp_path / "checkpoints" / f"{name}.ckpt"
    train(tmp_path, model(tiny), stream(), TensorBoardLayout(), logger=logger(kind, tmp_path), ckpt_path=path)
    found = (table if kind is CSVLogger else points)(tmp_path)
    assert found == expected


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_f29_rows_after_the_checkpoint_are_taken_back(tiny, tmp_path, whole):
    kind, expected = whole
    if kind is not CSVLogger:
        pytest.skip("of TensorBoard's files test_resume.py says so")
    train(tmp_path, model(tiny), stream(), logger=logger(kind, tmp_path))
    for step in ("step=6", "step=3"):
        path = tmp_path / "checkpoints" / f"{step}.ckpt"
        train(tmp_path, model(tiny), stream(), logger=logger(kind, tmp_path), ckpt_path=path)
        assert table(tmp_path) == expected
