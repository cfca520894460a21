from __future__ import annotations

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_sdpo.callbacks.evaluation import InitialEvaluation
from lit_sdpo.callbacks.forgetting import ForgettingMatrix
from lit_sdpo.errors import UserError
from tests.callbacks.scripted import PROBES, SCORES, STAGES, TASKS, Scripted, Stream, trainer

# By hand, from SCORES and STAGES: after each stage, what a reader is told. The third stage trains on math again.
SUMMARIES = [
    {"average_accuracy": 0.15, "ood_change": 0.0},
    {"average_accuracy": 0.55, "ood_change": -5.0},
    {"average_accuracy": 0.60, "ood_change": -10.0, "bwt": -0.3, "fwt": 0.1, "forgetting": 0.3},
    {"average_accuracy": 0.50, "ood_change": -6.0, "bwt": -0.3, "fwt": 0.1, "forgetting": 0.3},
]


def rows(matrix):
    names = matrix.matrix.columns
    return [[matrix.matrix.score(i, name) for name in names] for i in range(len(matrix.matrix.rows))]


def fit(tmp_path, module=None, data=None, ckpt_path=None, extra=(), matrix=None, **options):
    matrix = matrix or ForgettingMatrix()
    module = module or Scripted()
    trainer(tmp_path, InitialEvaluation(), matrix, *extra, **options).fit(module, data or Stream(), ckpt_path=ckpt_path)
    return matrix


def test_the_matrix_of_a_stream(tmp_path):
    matrix = fit(tmp_path)
    assert (matrix.matrix.tasks, matrix.matrix.probes) == (TASKS, PROBES)
    assert rows(matrix) == [pytest.approx(row) for row in SCORES]
    assert [row.label for row in matrix.matrix.rows] == ["base", *STAGES]
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert written["metric"] == "val/{task}/accuracy"
    assert (written["tasks"], written["probes"]) == (TASKS, PROBES)
    assert [row["step"] for row in written["rows"]] == [0, 3, 6, 9]
    assert [list(row["scores"].values()) for row in written["rows"]] == [pytest.approx(row) for row in SCORES]
    assert written["summary"] == pytest.approx(SUMMARIES[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["matrix.csv", "matrix.json"]


def test_each_stage_logs_its_summary_at_its_step(tmp_path):
    fit(tmp_path, logger=TensorBoardLogger(tmp_path, "", ""))
    events = EventAccumulator(str(tmp_path), {"scalars": 0}).Reload()
    logged: dict[int, dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        if tag.startswith("continual/"):
            for event in events.Scalars(tag):
                logged.setdefault(event.step, {})[tag.removeprefix("continual/")] = event.value
    assert logged == {step: pytest.approx(SUMMARIES[k], abs=1e-5) for k, step in enumerate((0, 3, 6, 9))}


def test_slots_of_a_step_are_not_steps(tmp_path):
    matrix = fit(tmp_path, data=Stream(batches=6), accumulate_grad_batches=2, val_check_interval=2)
    assert rows(matrix) == [pytest.approx(row) for row in SCORES]
    assert [row.step for row in matrix.matrix.rows] == [0, 3, 6, 9]


def test_an_evaluation_in_the_first_window_is_still_the_base_model(tmp_path):
    matrix = fit(tmp_path, data=Stream(batches=6), accumulate_grad_batches=2, val_check_interval=1)
    assert rows(matrix) == [pytest.approx(row) for row in SCORES]


def test_without_an_initial_evaluation_row_zero_is_undefined(tmp_path):
    matrix = ForgettingMatrix()
    trainer(tmp_path, matrix).fit(Scripted(), Stream())
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert [row["step"] for row in written["rows"]] == [None, 3, 6, 9]
    assert written["summary"]["fwt"] is None
    assert written["summary"]["ood_change"] is None
    assert written["summary"]["bwt"] == pytest.approx(-0.3)


def test_a_score_that_an_evaluation_does_not_log_is_not_that_of_an_earlier_one(tmp_path):
    scores = [[0.1, 0.2, 0.9], [0.8, None, 0.9], [0.8, 0.7, 0.9], [0.8, 0.7, 0.9]]
    fit(tmp_path, module=Scripted(scores))
    written = json.loads((tmp_path / "matrix.json").read_text())
    law = [row["scores"]["law"] for row in written["rows"]]
    assert law == [pytest.approx(0.2), None, pytest.approx(0.7), pytest.approx(0.7)]


def test_tasks_are_found_by_the_pattern(tmp_path):
    class Plain(pl.LightningDataModule):
        train_dataloader, val_dataloader = Stream.train_dataloader, Stream.val_dataloader
        batches = 3

    matrix = fit(tmp_path, data=Plain(), matrix=ForgettingMatrix(probes=PROBES))
    assert (matrix.matrix.tasks, matrix.matrix.probes) == (TASKS, PROBES)
    assert [row.title for row in matrix.matrix.rows] == ["base", "1 stage", "2 stage", "3 stage"]
    assert json.loads((tmp_path / "matrix.json").read_text())["summary"]["bwt"] is None


def test_scores_of_items_are_kept_where_somebody_has_them(tmp_path):
    class Items(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            self.item_scores = {"math": {"m1": trainer.global_step / 9, "m2": float("nan")}}

    matrix = fit(tmp_path, extra=[Items()])
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [0, 1, 2, 3]
    assert lines[3] == {"stage": 3, "task": "math", "scores": {"m1": 1.0, "m2": None}}
    assert lines[0]["scores"]["m1"] == 0.0
    assert matrix.state_dict()["rows"][1]["items"]["math"]["m1"] == pytest.approx(1 / 3)


class Save(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not trainer.is_last_batch:
            trainer.save_checkpoint(self.path / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path / f"{trainer.global_step}.ckpt")


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resume_is_exact_from_every_checkpoint(tmp_path):
    whole = fit(tmp_path / "whole", extra=[Save(tmp_path)])
    text = (tmp_path / "whole" / "matrix.json").read_text()
    for step in range(1, 9):
        folder = tmp_path / f"from{step}"
        resumed = fit(folder, ckpt_path=tmp_path / f"{step}.ckpt")
        assert resumed.state_dict() == whole.state_dict()
        assert (folder / "matrix.json").read_text() == text


def test_a_resumed_run_has_the_earlier_rows_in_its_folder_at_once(tmp_path):
    fit(tmp_path / "whole", extra=[Save(tmp_path)])
    fit(tmp_path / "resumed", ckpt_path=tmp_path / "6.ckpt", max_epochs=3, limit_val_batches=0)
    written = json.loads((tmp_path / "resumed" / "matrix.json").read_text())
    assert [row["step"] for row in written["rows"]] == [0, 3, 6]


def test_the_state_is_plain(tmp_path):
    matrix = fit(tmp_path)
    torch.save(matrix.state_dict(), tmp_path / "state.pt")
    again = ForgettingMatrix()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.state_dict() == matrix.state_dict()


def test_validate_alone_changes_nothing(tmp_path):
    matrix = ForgettingMatrix()
    trainer(tmp_path, matrix).validate(Scripted(), Stream(), verbose=False)
    assert matrix.matrix.rows == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metric", ["val/accuracy", "{task}/{task}"])
def test_the_pattern_must_name_the_task(metric):
    with pytest.raises(UserError, match=r"ForgettingMatrix.metric: no single \{task\}"):
        ForgettingMatrix(metric=metric)


class Check(pl.Callback):
    """Lives in the processes of the run, where the matrix is."""

    def __init__(self, matrix):
        self.matrix = matrix

    def on_train_end(self, trainer, pl_module):
        assert rows(self.matrix) == [pytest.approx(row) for row in SCORES]
        assert trainer.world_size == 2


@pytest.mark.distributed
def test_two_processes(tmp_path):
    matrix = ForgettingMatrix()
    data = Stream(batches=6)
    fit(tmp_path, data=data, matrix=matrix, extra=[Check(matrix)], strategy="ddp_fork", devices=2)
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert [list(row["scores"].values()) for row in written["rows"]] == [pytest.approx(row) for row in SCORES]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["matrix.csv", "matrix.json"]
