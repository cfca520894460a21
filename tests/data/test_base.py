"""What is asked of data modules: of this package's, of those that derive from its base, and of others."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest

from lit_sdpo.data.base import TaskStream, stream_of
from lit_sdpo.data.task import Stage
from tests.callbacks.scripted import PROBES, STAGES, TASKS, Stream
from tests.training import Toy, toy_data


class Own(TaskStream, pl.LightningDataModule):
    """Gives its stages, and nothing else."""

    def __init__(self):
        super().__init__()
        self.stages = [Stage(task=Toy(name), steps=1, prompts_per_step=2) for name in ("b", "a", "b")]


def seen(data):
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    if data is not None:
        trainer.datamodule = data
    return stream_of(trainer)


def test_a_stream_is_taken_as_it_is():
    data = toy_data(["a", "b"])
    assert seen(data) is data


def test_what_is_not_given_is_empty():
    data = seen(Own())
    assert data.stage_names == ["b", "a", "b"]
    assert data.task_names == [task.name for task in data.evaluated] == ["b", "a"]
    assert (data.probe_names, data.loss_names, data.replay_share, data.updates_per_rollout) == ([], [], 0.0, 1)
    assert len(data.evaluation_rows(data.tasks[0])) == len(data.tasks[0].rows("validation"))
    splits = [(task.name, split) for task, split, _ in data.row_sets("fit")]
    assert splits == [("b", "train"), ("a", "train"), ("b", "validation"), ("a", "validation")]


@pytest.mark.parametrize(
    ("data", "names", "kind"), [(Stream(), (TASKS, PROBES, STAGES), "Stream"), (None, ([], [], []), "NoneType")]
)
def test_other_data_modules_give_their_names(data, names, kind):
    stream = seen(data)
    assert (stream.task_names, stream.probe_names, stream.stage_names) == names
    assert stream.kind == kind
    assert not stream.stages
    assert not stream.evaluated
