from __future__ import annotations

from types import SimpleNamespace

import pytest

from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from tests.training import Toy, toy_data


def fake_trainer(data, **changes):
    settings = {
        **data.trainer_arguments(),
        "fast_dev_run": False,
        "max_steps": -1,
        "min_epochs": 0,
        "min_steps": None,
        "overfit_batches": 0,
        "callbacks": [],
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "limit_test_batches": 1.0,
        "check_val_every_n_epoch": 1,
        "val_check_interval": 1.0,
        "_val_check_time_interval": None,
        "accumulate_grad_batches": 1,
        "log_every_n_steps": 1,
        "current_epoch": 0,
        "global_rank": 0,
        "world_size": 1,
    }
    return SimpleNamespace(**(settings | changes))


def with_trainer(data, **changes):
    data.trainer = fake_trainer(data, **changes)
    return data


def test_names_follow_first_appearance_and_tasks_may_repeat():
    data = toy_data(["b", "a", "b"], probes=[Toy("p")])
    assert (data.stage_names, data.task_names, data.probe_names) == (["b", "a", "b"], ["b", "a"], ["p"])
    assert [task.name for task in data.evaluated] == ["b", "a", "p"]
    assert data.total_steps == 3
    assert data.trainer_arguments()["max_epochs"] == 3


def test_a_repeated_task_has_its_own_order_in_each_stage():
    data = toy_data(["a", "a"], steps=4)
    orders = []
    for stage in range(2):
        loader = with_trainer(data, current_epoch=stage).train_dataloader()
        orders.append([row.id for batch in loader for row in batch.rows])
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_only_probes_are_evaluated_on_request():
    data = toy_data(["a"], probes=[Toy("p")], evaluate_trained=False)
    assert [loader.task.name for loader in data.val_dataloader()] == ["p"]
    assert [(task.name, split) for task, split, _ in data.row_sets("fit")] == [("a", "train"), ("p", "validation")]
    assert [(task.name, split) for task, split, _ in data.row_sets("test")] == [("p", "test")]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_rows_depend_on_their_ids_alone(split):
    task = Toy(size=40)
    chosen = [row.id for row in toy_data(seed=1, eval_prompts=7).evaluation_rows(task, split)]
    assert chosen == [row.id for row in toy_data(seed=2, eval_prompts=7).evaluation_rows(task, split)]
    assert len(set(chosen)) == 7
    assert all(i.startswith(split) for i in chosen)
    rows = task.rows
    task.rows = lambda name: rows(name)[::-1]
    assert [row.id for row in toy_data(eval_prompts=7).evaluation_rows(task, split)] == chosen
    assert len(toy_data(eval_prompts=None).evaluation_rows(task, split)) == 40


def test_loaders_read_the_trainer():
    data = with_trainer(
        toy_data(steps=6, prompts=4, eval_every=3), accumulate_grad_batches=2, global_rank=1, world_size=2
    )
    loader = data.train_dataloader()
    assert (loader.slots, loader.rank, loader.world_size, len(loader)) == (2, 1, 2, 12)
    assert data.trainer.val_check_interval == 6
    assert [each.positions for each in data.val_dataloader()] == [range(1, 4, 2)]
    assert len(toy_data(steps=6).train_dataloader()) == 6


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"stages": []}, "data.stages"),
        ({"eval_every": 0}, "eval_every has to be"),
        ({"eval_every": 4}, "data.eval_every"),
        ({"eval_generations": 0}, "eval_generations has to be"),
        ({"eval_batch_size": 0}, "eval_batch_size has to be"),
        ({"eval_prompts": 0}, "eval_prompts has to be"),
        ({"updates_per_rollout": 0}, "updates_per_rollout has to be"),
        ({"probes": [Toy()]}, "data.probes"),
        ({"probes": [Toy("p"), Toy("p")]}, "data.probes"),
        ({"stages": [Stage(task=Toy(), steps=6), Stage(task=Toy(size=5), steps=6)]}, r"data.stages\[1\].task"),
    ],
)
def test_mistakes_are_found_when_it_is_made(options, where):
    with pytest.raises(UserError, match=where):
        ContinualDataModule(**({"stages": [Stage(task=Toy(), steps=6)]} | options))


def test_c01_equal_tasks_may_share_a_name():
    data = ContinualDataModule([Stage(task=Toy()), Stage(task=Toy())])
    assert [task.name for task in data.tasks] == ["toy"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"reload_dataloaders_every_n_epochs": 0}, "trainer.reload_dataloaders_every_n_epochs"),
        ({"max_steps": 3}, "trainer.max_steps"),
        ({"max_epochs": None}, "trainer.max_epochs"),
        ({"max_epochs": -1}, "trainer.max_epochs"),
        ({"max_epochs": 2}, "trainer.max_epochs"),
        ({"max_epochs": 0}, "trainer.max_epochs"),
        ({"overfit_batches": 1}, "trainer.overfit_batches"),
        ({"world_size": 4}, r"data.stages\[0\].prompts_per_step"),
    ],
)
def test_a_trainer_that_would_break_the_stream_is_refused(changes, where):
    with pytest.raises(UserError, match=where):
        with_trainer(toy_data(), **changes).setup("fit")


@pytest.mark.parametrize("changes", [{}, {"fast_dev_run": True, "max_steps": 1}])
def test_other_trainers_are_accepted(changes):
    with_trainer(toy_data(), **changes).setup("fit")


@pytest.mark.parametrize(("split", "message"), [("train", "no training rows"), ("validation", "no rows to evaluate")])
def test_a_task_without_rows_is_refused(split, message):
    task = Toy()
    rows = task.rows
    task.rows = lambda name: [] if name == split else rows(name)
    data = with_trainer(ContinualDataModule([Stage(task=task)]))
    with pytest.raises(UserError, match=message):
        data.setup("fit")


def test_a_test_needs_test_rows():
    task = Toy()
    rows = task.rows
    task.rows = lambda name: rows(name) if name == "test" else []
    data = with_trainer(ContinualDataModule([Stage(task=task)]))
    data.setup("test")
    task.rows = lambda name: [] if name == "test" else rows(name)
    with pytest.raises(UserError, match="no rows to evaluate"):
        data.setup("test")
