"""Rows that the chat template cannot write: named by file and line, or skipped and counted."""

import json

import pytest

from lit_sdpo.callbacks.rollout.prompt_budget import PromptBudget
from lit_sdpo.data.check.checker import Checker, Part
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError
from lit_sdpo.policies.chat import rendered
from lit_sdpo.policies.load import load_tokenizer

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


@pytest.fixture
def tokenizer():
    made = load_tokenizer("micro")
    made.chat_template = NO_SYSTEM
    return made


@pytest.fixture
def file(tmp_path):
    system = [{"role": "system", "content": "s"}]
    rows = [
        {
            "id": f"r{n}",
            "messages": (system if n == 1 else []) + [{"role": "user", "content": f"{n} + 1?"}],
            "ground_truth": str(n + 1),
            "verifier": "math_boxed",
        }
        for n in range(3)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def look(task, tokenizer):
    PromptBudget(100).add(tokenizer, None, task, "train", lambda: task.rows("train"), lambda row: 1)


def test_a_row_is_named_by_file_and_line(file, tokenizer):
    task = JsonlTask("a", train=str(file))
    with pytest.raises(UserError, match="no system role here") as caught:
        look(task, tokenizer)
    assert caught.value.where == f"{file}, line 2"
    assert "on_bad_row" in caught.value.fix


def test_rows_are_skipped_and_counted_where_that_is_asked_for(file, tokenizer):
    task = JsonlTask("a", train=str(file), on_bad_row="skip")
    look(task, tokenizer)
    assert [row.id for row in task.rows("train")] == ["r0", "r2"]
    assert task.skipped["train"] == 1


def test_no_row_left_is_a_mistake(file, tokenizer):
    tokenizer.chat_template = "{{ raise_exception('never with these messages') }}{{ messages }}"
    with pytest.raises(UserError, match="can write no row"):
        look(JsonlTask("a", train=str(file), on_bad_row="skip"), tokenizer)


def test_the_check_of_data_finds_them(file, tokenizer):
    def measure(rows):
        ids, refused = rendered(tokenizer, [row.messages for row in rows])
        return [len(each) for each in ids], refused

    checker = Checker(measure, answers=False)
    checker.read(Part(Source(path=str(file))))
    report, _ = checker.finish()
    (found,) = [finding for finding in report.findings if finding.kind == "template"]
    assert found.where == f"{file}, line 2"
    assert "no system role here" in found.what
    assert "prompts that the chat template cannot write: 1" in report.text()
    assert len(report.groups[0].lengths) == 2
