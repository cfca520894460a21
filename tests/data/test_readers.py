from __future__ import annotations

import gzip
import json

import pytest

from lit_sdpo.data.readers import read_rows
from lit_sdpo.errors import UserError

GOOD = {
    "id": "a/1",
    "family": "math",
    "task": "sums",
    "split": "train",
    "verifier": "math_boxed",
    "messages": [{"role": "user", "content": "1+1?"}],
    "ground_truth": "2",
    "extra": '{"reference_solution": "Two.", "level": 1}',
    "source": {},
}


def write(folder, *rows, name="rows.jsonl"):
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_row(tmp_path):
    (row,), skipped = read_rows(write(tmp_path, GOOD))
    assert skipped == 0
    assert (row.id, row.ground_truth, row.verifier) == ("a/1", "2", "math_boxed")
    assert row.messages == [{"role": "user", "content": "1+1?"}]
    assert row.extra["level"] == 1
    assert row.reference == "Two.\n\n\\boxed{2}"


def test_gzip_and_strange_separators(tmp_path):
    text = "a\u2028b\x0bc\x85d"
    row = {**GOOD, "messages": [{"role": "user", "content": text}]}
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(row, ensure_ascii=False) + "\n\n").encode()))
    assert read_rows(path)[0][0].messages[0]["content"] == text
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(path)


def test_columns_of_another_layout(tmp_path):
    first, second = {"question": "1+1?", "answer": "2", "task": "Add."}, {"question": "1+2?", "answer": "3"}
    path = write(tmp_path, first, second, name="sums.jsonl")
    columns = {"ground_truth": "answer", "prompt": "question", "system": "task"}
    rows, _ = read_rows(path, columns, verifier="math_boxed")
    assert [row.id for row in rows] == ["sums/1", "sums/2"]
    assert rows[0].messages == [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1?"}]
    assert rows[1].messages == [{"role": "user", "content": "1+2?"}]
    assert rows[1].reference == "\\boxed{3}"


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"ground_truth": None}, "ground_truth", "missing"),
        ({"ground_truth": 2}, "ground_truth", "not a number"),
        ({"ground_truth": " "}, "ground_truth", "empty"),
        ({"id": None}, "id", "missing"),
        ({"verifier": None}, "verifier", "missing"),
        ({"messages": None}, "messages", "missing"),
        ({"messages": "1+1?"}, "messages", "not text"),
        ({"messages": []}, "messages", "empty list"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "not a message"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "messages[0]", "user, assistant, tool"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages[0]", "no question"),
        ({"extra": "{broken"}, "extra", "not JSON"),
        ({"extra": [1]}, "extra", "object is needed"),
        ({"ground_truth": "1+1=2\n#### 2"}, "ground_truth", "follows ####"),
        ({"verifier": "tooluse_react"}, "ground_truth", "Action_Input"),
        ({"verifier": "mcq_xml"}, "ground_truth", "capital letter"),
        ({"verifier": "mcq_boxed", "ground_truth": "AB"}, "ground_truth", "capital letter"),
        ({"verifier": "tooluse_react", "ground_truth": "[]"}, "ground_truth", "no call"),
        ({"verifier": "bfcl_ast", "ground_truth": '{"functions": [], "possible_answers": []}'}, "ground_truth", "call"),
        ({"verifier": "zebra_json", "ground_truth": '{"House 1": {}}'}, "ground_truth", "House 1"),
        ({"verifier": "numeric_boxed", "ground_truth": "nan"}, "ground_truth", "number"),
        ({"verifier": "numeric_boxed", "ground_truth": "-inf"}, "ground_truth", "number"),
        ({"verifier": "exact_text", "ground_truth": "<think>"}, "ground_truth", "thinking"),
    ],
)
def test_d02_d03_a_bad_row_is_named(tmp_path, change, field, message):
    bad = {key: value for key, value in {**GOOD, "id": "a/2", **change}.items() if value is not None}
    path = write(tmp_path, GOOD, bad)
    with pytest.raises(UserError) as caught:
        read_rows(path)
    assert f"{path}, line 2, field '{field}'" in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.fix
    rows, skipped = read_rows(path, on_bad_row="skip")
    assert (len(rows), skipped) == (1, 1)


@pytest.mark.parametrize("line", ["{", "[1]", "null", "[" * 100_000])
def test_d01_a_line_that_is_no_object(tmp_path, line):
    path = write(tmp_path, GOOD, line)
    with pytest.raises(UserError, match="line 2: the line"):
        read_rows(path)
    assert read_rows(path, on_bad_row="skip")[1] == 1


def test_d01_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(UserError, match=r"line 1: .*UTF-8"):
        read_rows(path)


def test_d01_an_id_occurs_once(tmp_path):
    with pytest.raises(UserError, match="'a/1' occurs twice"):
        read_rows(write(tmp_path, GOOD, GOOD))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": {"truth": "answer"}}, "no such field 'truth'"),
        ({"on_bad_row": "ignore"}, "Use error or skip"),
        ({"verifier": "mth"}, "no such verifier"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        read_rows(write(tmp_path, GOOD), **arguments)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
