"""Data files are data: they name no code, keep every turn, and what is wrong is one line with its place."""

import json
import sys

import pytest

from lit_sdpo.cli import main
from lit_sdpo.data.check.report import Finding, Report
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.readers import read_rows
from lit_sdpo.errors import UserError
from lit_sdpo.rewards import registry
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.registry import register_verifiers, verifier

USER = {"role": "user", "content": "1 + 1?"}
OWN = "tests.data.test_plain_data.always"


def always(completion, row):
    return Verdict(1.0)


always.isolated = False


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(registry, "REGISTERED", {})
    yield
    verifier.cache_clear()


@pytest.fixture
def write(tmp_path):
    def written(*changes, name="rows.jsonl"):
        rows = [
            {"id": f"r{n}", "messages": [USER], "ground_truth": "2", "verifier": "math_boxed"}
            for n in range(len(changes))
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row | change) + "\n" for row, change in zip(rows, changes, strict=True)))
        return path

    return written


@pytest.mark.parametrize("name", ["this.s", "os.system", OWN, "nothing.at.all", "math_boxd"])
def test_a_row_names_no_code(write, name):
    sys.modules.pop("this", None)
    with pytest.raises(UserError, match="no such verifier") as caught:
        read_rows(write({}, {"verifier": name}))
    assert caught.value.where.endswith("rows.jsonl, line 2, field 'verifier'")
    assert "data.verifiers" in caught.value.fix
    assert "this" not in sys.modules


def test_the_configuration_registers_verifiers(write):
    register_verifiers({"mine": OWN})
    (row,), _ = read_rows(write({"verifier": "mine"}))
    assert verifier("mine") is always
    assert verifier(row.verifier)("anything", row).score == 1.0


def test_the_configuration_may_name_one_for_all_rows(write):
    task = JsonlTask("a", train=str(write({"verifier": "os.system"})), verifier=OWN)
    assert [row.verifier for row in task.rows("train")] == [OWN]


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        ({"math_boxed": OWN}, "is a contract"),
        ({"a b": OWN}, "is no name"),
        ({"mine": "nothing.at.all"}, "cannot import"),
        ({"mine": "os.path"}, "not a verifier"),
    ],
)
def test_what_cannot_be_registered(paths, text):
    with pytest.raises(UserError, match=text) as caught:
        register_verifiers(paths)
    assert caught.value.where == f"data.verifiers.{next(iter(paths))}"


def test_registered_by_a_file(write, tmp_path, capsys):
    data = {
        "stages": [
            {"task": {"class_path": "JsonlTask", "init_args": {"name": "a", "train": str(write({"verifier": "mine"}))}}}
        ]
    }
    config = {"data": {"class_path": "ContinualDataModule", "init_args": data}}
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config))
    assert main(["data", "check", str(path), "--skip_answers"]) == 2
    data["verifiers"] = {"mine": OWN}
    path.write_text(json.dumps(config))
    assert main(["data", "check", str(path), "--skip_answers"]) == 0


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "4"}


def test_tool_turns_are_kept(write):
    (row,), _ = read_rows(write({"messages": [USER, CALL, RESULT, USER]}))
    assert row.messages[1] == {**CALL, "content": ""}
    assert row.messages[2] == RESULT


@pytest.mark.parametrize(
    ("messages", "field", "text"),
    [
        ([USER | {"images": ["a.png"]}], "messages[0].images", "no such field"),
        ([CALL | {"tool_calls": "f()"}, USER], "messages[0].tool_calls", "list is needed"),
        ([CALL | {"tool_calls": [{"name": "f"}]}, USER], "messages[0].tool_calls[0]", "not the call of a function"),
        ([RESULT | {"tool_call_id": 3}, USER], "messages[0].tool_call_id", "str is needed"),
        ([{"role": "assistant", "content": None}, USER], "messages[0]", "not a message"),
        ([{"role": "critic", "content": "x"}, USER], "messages[0]", "not a message"),
        ([CALL], "messages[0]", "no question at its end"),
    ],
)
def test_turns_that_would_be_lost_are_refused(write, messages, field, text):
    with pytest.raises(UserError, match=text) as caught:
        read_rows(write({"messages": messages}))
    assert caught.value.where.endswith(f"line 1, field {field!r}")


def test_empty_fields_of_a_message_say_nothing(write):
    (row,), _ = read_rows(write({"messages": [USER | {"tool_calls": None, "refusal": None}]}))
    assert row.messages == [USER]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": [{"role": "user", "content": "a \ud800 b"}]}, "messages[0].content"),
        ({"id": "\udfff"}, "id"),
        ({"extra": {"a": [{"b": "\ud83d"}]}}, "extra.a[0].b"),
        ({"extra": {"\ud800": 1}}, "extra"),
    ],
)
def test_half_a_character_is_refused(write, change, field):
    with pytest.raises(UserError, match="surrogate") as caught:
        read_rows(write(change))
    assert caught.value.where.endswith(f"line 1, field {field!r}")


def test_whole_pairs_are_characters(write):
    (row,), _ = read_rows(write({"messages": [{"role": "user", "content": "\U0001f600"}]}))
    assert row.messages[0]["content"] == "\U0001f600"


@pytest.mark.parametrize("value", [0.5, float("nan"), 1e400, -1.5])
def test_floats_as_answers_are_refused_at_their_row(write, value):
    path = write({"verifier": None, "ground_truth": value})
    with pytest.raises(UserError, match="text is needed, not a number") as caught:
        read_rows(path, verifier="math_boxed")
    assert caught.value.where == f"{path}, line 1, field 'ground_truth'"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\u2028b", "\u202ea"])
def test_names_stay_on_their_line(write, name):
    with pytest.raises(UserError, match="line breaks or control"):
        JsonlTask(name, train=str(write({})))
    with pytest.raises(UserError, match="line breaks or control") as caught:
        read_rows(write({"task": name}))
    assert caught.value.where.endswith("field 'task'")


def test_equal_problems_are_one_line_with_a_count():
    same = [Finding("row", f"a.jsonl, line {n}, field 'id'", "the field is missing", "add it") for n in range(1, 21)]
    other = Finding("row", "a.jsonl, line 30, field 'answer'", "the field is missing", "add it")
    text = Report(findings=[*same, other]).text()
    assert "  a.jsonl, line 1, field 'id': the field is missing. Add it. So 19 more." in text.splitlines()
    assert len([line for line in text.splitlines() if "the field is missing" in line]) == 2
    assert "rows that do not fit: 21" in text


def test_nothing_of_a_row_acts_on_a_terminal(write, capsys):
    path = write({"verifier": "no\x1b[31mred"})
    assert main(["data", "check", str(path)]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "[U+001B]" in said.out or "\\x1b" in said.out
