from __future__ import annotations

import re
from pathlib import Path

import pytest

from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.micro.tasks import MicroTask
from lit_sdpo.data.named import NamedTask
from lit_sdpo.data.readers import read_rows
from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import verifier
from tests.data.test_readers import GOOD, write

FILES = Path(__file__).with_name("files")
PLAIN = sorted(path.name for path in FILES.glob("*.jsonl") if not re.match("mbpp|humaneval|stdio|func", path.name))
PROGRAMS = sorted(path.name for path in FILES.glob("*.jsonl") if path.name not in PLAIN)


def refused(name):
    rows, skipped = read_rows(FILES / name)
    assert rows
    assert skipped == 0
    assert all(row.reference for row in rows)
    return [row.id for row in rows if verifier(row.verifier)(f"<think>hm</think>\n{row.reference}", row).score != 1.0]


@pytest.mark.parametrize("name", PLAIN)
def test_every_reference_is_accepted(name):
    assert refused(name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_is_accepted(bubblewrap, name):
    assert refused(name) == []


@pytest.mark.parametrize("name", PLAIN)
def test_the_reference_of_another_row_is_refused(name):
    rows, _ = read_rows(FILES / name)
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        if row.ground_truth != other.ground_truth:
            assert verifier(row.verifier)(other.reference, row).score == 0.0


def numbered(*numbers):
    return [
        {
            **GOOD,
            "id": str(number),
            "messages": [{"role": "user", "content": f"{number}+1?"}],
            "ground_truth": str(number + 1),
        }
        for number in numbers
    ]


def test_splits_and_verdicts(tmp_path):
    train = write(tmp_path, *numbered(1, 2, 3), name="train.jsonl")
    task = JsonlTask("sums", train=train, test=write(tmp_path, *numbered(9), name="test.jsonl"))
    assert [row.id for row in task.rows("train")] == ["1", "2", "3"]
    assert list(task.rows("validation")) == []
    assert task.verify(r"\boxed{10}", task.rows("test")[0]).score == 1.0
    assert task.verify(r"\boxed{11}", task.rows("test")[0]).score == 0.0
    assert any(re.search(marker, r"so \boxed{3}") for marker in task.markers)


def test_d07_evaluated_prompts_are_not_trained_on(tmp_path, caplog):
    train = write(tmp_path, *numbered(1, 2, 3), name="train.jsonl")
    again = [{**row, "id": f"v{row['id']}"} for row in numbered(2)]
    task = JsonlTask("sums", train=train, validation=write(tmp_path, *again, name="validation.jsonl"))
    assert [row.id for row in task.rows("train")] == ["1", "3"]
    assert task.overlap == 1
    assert "left out 1 training rows" in caplog.text
    with pytest.raises(UserError, match="every training row is evaluated"):
        JsonlTask("sums", train=train, test=train)


def test_limit_and_skipped_rows(tmp_path):
    path = write(tmp_path, *numbered(1), "{", *numbered(2, 3))
    task = JsonlTask("sums", train=path, on_bad_row="skip", limit=2)
    assert [row.id for row in task.rows("train")] == ["1", "2"]
    assert task.skipped == {"train": 1}


def test_the_verifier_of_the_task_wins(tmp_path):
    task = JsonlTask("sums", test=write(tmp_path, *numbered(1)), verifier="exact_text")
    assert task.verify("2", task.rows("test")[0]).score == 1.0
    assert task.rows("test")[0].reference == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "task sums: the task has no files"),
        ({"train": "none.jsonl"}, "task sums, argument train: there is no file 'none.jsonl'"),
        ({"test": "EMPTY"}, "argument test: .* has no rows"),
        ({"test": "GOOD", "verifier": "mth"}, "no such verifier 'mth'. Use one of: bfcl_ast"),
        ({"test": "GOOD", "limit": 0}, "limit has to be"),
    ],
)
def test_mistakes_are_named_when_the_task_is_made(tmp_path, arguments, message):
    files = {"EMPTY": write(tmp_path, "", name="empty.jsonl"), "GOOD": write(tmp_path, GOOD)}
    with pytest.raises(UserError, match=message):
        JsonlTask("sums", **{key: files.get(value, value) for key, value in arguments.items()})


@pytest.mark.parametrize("option", ["verifier", "prompt", "layout", "columns"])
def test_empty_options_are_not_left_out_options(option):
    with pytest.raises(UserError, match=f"{option} is empty|no such verifier ''"):
        JsonlTask("sums", str(FILES / "gsm8k_train.jsonl"), **{option: {} if option == "columns" else ""})


@pytest.mark.parametrize("kind", [MicroTask, NamedTask])
def test_an_empty_name_is_none(kind):
    options = {"domain": "math"} if kind is MicroTask else {"task": "gsm8k", "train": str(FILES / "gsm8k_train.jsonl")}
    with pytest.raises(UserError, match="no name"):
        ContinualDataModule([Stage(task=kind(**options, name=""))])


def test_a_path_with_a_line_break_is_told_in_one_line():
    with pytest.raises(UserError) as caught:
        JsonlTask("two\nlines", "line\nbreak.jsonl")
    assert len(str(caught.value).splitlines()) == 1
