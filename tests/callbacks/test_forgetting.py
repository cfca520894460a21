from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lit_sdpo.callbacks.forgetting import ForgettingMatrix
from lit_sdpo.callbacks.initial_evaluation import InitialEvaluation
from lit_sdpo.errors import UserError
from tests.callbacks.scripted import PROBES, SCORES, STAGES, TASKS, Scripted, Stream, trainer

FILES = ["matrix.csv", "matrix.json", "matrix.md", "tasks.csv"]
# By hand, from SCORES and STAGES: after each stage, what a reader is told. The third stage trains on math again.
SUMMARIES = [
    {"average_accuracy": 0.15, "relative_gain": 0.0, "relative_forgetting": 0.0}
    | {"ood_change": 0.0, "ood_relative_change": 0.0},
    {"average_accuracy": 0.55, "learning_accuracy": 0.8, "anytime_accuracy": 0.8}
    | {"relative_gain": 375.0, "relative_forgetting": 0.0, "ood_change": -5.0, "ood_relative_change": -5 / 0.9},
    {"average_accuracy": 0.60, "learning_accuracy": 0.75, "anytime_accuracy": (0.8 + 0.6) / 2}
    | {"bwt": -0.3, "fwt": 0.1, "forgetting": 0.3, "relative_gain": 325.0, "relative_forgetting": 0.0}
    | {"ood_change": -10.0, "ood_relative_change": -10 / 0.9},
    {"average_accuracy": 0.50, "learning_accuracy": 0.65, "anytime_accuracy": (0.8 + 0.6 + 0.5) / 3}
    | {"bwt": -0.3, "fwt": 0.1, "forgetting": 0.3, "relative_gain": 300.0, "relative_forgetting": 0.0}
    | {"ood_change": -6.0, "ood_relative_change": -6 / 0.9},
]


def rows(matrix):
    names = matrix.matrix.columns
    return [[matrix.matrix.score(i, name) for name in names] for i in range(len(matrix.matrix.rows))]


def fit(tmp_path, module=None, data=None, ckpt_path=None, extra=(), matrix=None, **options):
    matrix = matrix or ForgettingMatrix()
    module = module or Scripted()
    trainer(tmp_path, InitialEvaluation(), matrix, *extra, **options).fit(module, data or Stream(), ckpt_path=ckpt_path)
    return matrix


def test_a_matrix_of_losses(tmp_path):
    """The same scores as losses: what was lost is won."""
    matrix = fit(tmp_path, matrix=ForgettingMatrix(mode="min"))
    assert matrix.matrix.losses == [*TASKS, *PROBES]
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert written["losses"] == [*TASKS, *PROBES]
    expected = {"average_accuracy": 0.5, "bwt": 0.3, "fwt": -0.1, "relative_forgetting": 300.0, "loss_change": -0.06}
    assert {name: written["summary"][name] for name in expected} == pytest.approx(expected)
    assert written["summary"]["forgetting"] == pytest.approx(-0.3)  # law had .7 after its own stage, .4 at the end


def test_losses_beside_accuracies(tmp_path):
    matrix = ForgettingMatrix(losses=["poems"], loss_metric="val/{task}/accuracy")
    assert fit(tmp_path, matrix=matrix).matrix.losses == ["poems"]
    written = json.loads((tmp_path / "matrix.json").read_text())["summary"]
    assert written["loss_change"] == pytest.approx(-0.06)
    assert written["ood_change"] is None
    assert {name: written[name] for name in ("bwt", "forgetting")} == pytest.approx({"bwt": -0.3, "forgetting": 0.3})


@pytest.mark.parametrize("options", [{"mode": "least"}, {"loss_metric": "loss"}])
def test_what_losses_may_be(options):
    with pytest.raises(UserError, match=r"no mode 'least'|no single \{task\} in 'loss'"):
        ForgettingMatrix(**options)


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
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


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
    assert matrix.state_dict()["rows"][1]["items"]["math"]["m1"] == pytest.approx([1 / 3])


class Save(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not trainer.is_last_batch:
            trainer.save_checkpoint(self.path / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path / f"{trainer.global_step}.ckpt")


class Samples(pl.Callback):
    """Sixty prompts of math with four samples each: those of the first half are right before, of the other after."""

    def on_validation_epoch_end(self, trainer, pl_module):
        right = trainer.global_step == 0
        scores = {f"m{i}": [float((i < 30) == right)] * 3 + [0.5] for i in range(60)}
        self.item_scores = {"math": scores, "law": {"l1": float("nan")}}


def test_scores_of_samples_give_intervals_and_transitions(tmp_path):
    matrix = ForgettingMatrix(choices={"math": 4})
    fit(tmp_path, matrix=matrix, extra=[Samples()], logger=TensorBoardLogger(tmp_path, "", ""))
    tables = {}
    for name in ("tasks", "changes"):
        with (tmp_path / f"{name}.csv").open() as file:
            tables[name] = list(csv.DictReader(file))
    first = tables["tasks"][0]
    assert (first["task"], first["items"], first["samples"], first["interval"]) == ("math", "60", "4", "wilson")
    assert float(first["low"]) < 0.5 < float(first["high"])
    assert float(first["pass@2"]) == pytest.approx(0.5)
    assert tables["tasks"][1]["items"] == ""  # law: all samples abstained
    assert float(tables["tasks"][3]["relative_change"]) == pytest.approx(700)
    assert [(x["stage"], x["since"]) for x in tables["changes"]] == [
        *[("1", "base"), ("2", "own stage"), ("2", "base"), ("3", "own stage"), ("3", "base"), ("3", "previous stage")]
    ]
    change = tables["changes"][0]
    # A prompt's mean is 0.875 where its samples are right, else 0.125.
    assert float(change["lost"]) == float(change["won"]) == pytest.approx((0.875**2 + 0.125**2) / 2)
    assert float(change["by_sampling"]) == pytest.approx(0.875 * 0.125 * 4 / 3)
    assert float(change["by_guessing"]) == pytest.approx(0.25 / 3)
    assert float(change["lost_true"]) == pytest.approx((0.875**2 + 0.125**2) / 2 - 0.25 / 3)
    events = EventAccumulator(str(tmp_path), {"scalars": 0}).Reload()
    assert [e.step for e in events.Scalars("tasks/math/pass@4")] == [0, 3, 6, 9]
    assert [e.value for e in events.Scalars("tasks/math/lost")] == pytest.approx(
        [float(tables["changes"][i]["lost"]) for i in (0, 1, 3)]
    )
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert "average_accuracy" not in written["intervals"]  # law has no prompts
    text = (tmp_path / "matrix.md").read_text()
    assert text.startswith(matrix.matrix.markdown())


def test_what_is_undefined_has_a_reason(tmp_path, capsys):
    scores = [[0.1, 0.2, 0.9], [0.8, None, 0.9], [0.8, 0.7, 0.9], [0.8, 0.7, 0.9]]
    fit(tmp_path, module=Scripted(scores))
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert written["rows"][1]["undefined"] == {"law": "the evaluation did not log it"}
    assert written["undefined"] == {
        "fwt": "no score on 'law' after stage 1 math: the evaluation did not log it",
    }
    assert "undefined: no score on 'law' after stage 1 math" in capsys.readouterr().out


def test_the_smallest_detectable_change_is_said_before_the_first_step(tmp_path, capsys):
    class Say(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            print("a step")

    fit(tmp_path, extra=[Samples(), Say()])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "smallest change of a score that is found 8 times in 10 (paired, 95 % level):"
    assert printed[1].split() == ["math", "0.098", "(60", "prompts", "x", "4", "samples,", "rate", "0.50", "measured)"]
    assert printed[2] == "a step"
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert written["detectable"]["math"]["change"] == pytest.approx(0.0977, abs=1e-4)


def test_the_detectable_change_of_loaders_that_know_their_size(tmp_path, capsys):
    class Sized(DataLoader):
        task, rows, num_generations = SimpleNamespace(name="math"), range(50), 8

    class Data(Stream):
        def val_dataloader(self):
            return Sized(torch.ones(2, 1))

    fit(tmp_path, data=Data())
    assert "math  0.099  (50 prompts x 8 samples, rate 0.50 assumed)" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_evaluations_inside_stages_are_kept_beside_the_matrix(tmp_path):
    each_step = {"val_check_interval": 1, "check_val_every_n_epoch": 1}
    whole = fit(tmp_path / "whole", extra=[Save(tmp_path)], **each_step)
    plain = fit(tmp_path / "plain")
    assert rows(whole) == rows(plain)
    text = (tmp_path / "whole" / "curves.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert {(x["stage"], x["step"]) for x in found} == {(1, 1), (1, 2), (2, 4), (2, 5), (3, 7), (3, 8)}
    assert {x["task"] for x in found} == {*TASKS, *PROBES}
    assert not (tmp_path / "plain" / "curves.jsonl").exists()
    for step in (1, 5, 6):
        folder = tmp_path / f"from{step}"
        resumed = fit(folder, ckpt_path=tmp_path / f"{step}.ckpt", **each_step)
        kept = {line for line in text.splitlines() if json.loads(line)["step"] != step}  # its own comes after the save
        assert kept <= set((folder / "curves.jsonl").read_text().splitlines())
        assert rows(resumed) == rows(whole)


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


def test_a_question_has_two_options_at_least():
    with pytest.raises(UserError, match=r"choices of sci has to be a whole number of at least 2"):
        ForgettingMatrix(choices={"sci": 1})


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
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
