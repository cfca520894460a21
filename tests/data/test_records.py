from __future__ import annotations

import gzip
import json
import sys

import pytest

from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.readers import read_rows
from lit_sdpo.data.records import records
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError
from tests.data.test_readers import GOOD, write

LINES = [{"id": n, "prompt": f"{n}+1?", "answer": n + 1} for n in range(5)]


def parquet(path, lines):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(lines), path)
    return path


def truths(source):
    return [row.ground_truth for row in read_rows(source, verifier="math_boxed")[0]]


def test_plain_rows_are_the_same_in_every_kind_of_file(tmp_path):
    text = "\n".join(json.dumps(line) for line in LINES)
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.json").write_text(json.dumps(LINES, indent=1))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    read = [read_rows(tmp_path / name, verifier="math_boxed") for name in ("a.jsonl", "a.json", "a.json.gz")]
    assert read[0] == read[1] == read[2]
    assert [row.ground_truth for row in read[0][0]] == ["1", "2", "3", "4", "5"]
    assert read_rows(parquet(tmp_path / "a.parquet", LINES), verifier="math_boxed") == read[0]


def test_nothing_behind_the_limit_is_read(tmp_path):
    path = write(tmp_path, *LINES[:2], "{broken")
    assert len(read_rows(path, verifier="math_boxed", limit=2)[0]) == 2
    with pytest.raises(UserError, match="line 3"):
        read_rows(path, verifier="math_boxed", limit=3)


def test_records_come_one_by_one(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(1000)) + "{broken")
    stream = records(Source(path=str(path)))
    assert [next(stream).value["n"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["rows.csv", "rows.pkl", "rows"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    (tmp_path / name).write_text("a,b\n")
    with pytest.raises(UserError, match="Give JSON lines or Parquet"):
        read_rows(tmp_path / name)


def test_a_broken_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("source", "package", "install"),
    [({"path": "a.parquet"}, "pyarrow", "[parquet]"), ({"hub": "openai/gsm8k"}, "datasets", "[hub]")],
)
def test_c12_a_missing_extra_is_named_with_its_install_line(tmp_path, monkeypatch, source, package, install):
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read_rows(Source(**source))
    assert f"{package} is not installed" in caught.value.what
    assert caught.value.fix == f"pip install 'lit-sdpo{install}'"


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The package ``datasets``, offline and with a cache of its own."""
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(found.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found.disable_progress_bars()
    return found


def hub_folder(folder, kind="json"):
    """A folder in the shape of a Hub data set with two configurations and two splits."""
    folder.mkdir()
    for place, (subset, split) in enumerate([("one", "train"), ("one", "test"), ("two", "train"), ("two", "test")]):
        lines = [{"question": f"{place}{n}?", "answer": f"sum\n#### {place}{n}"} for n in range(2)]
        if kind == "json":
            write(folder, *lines, name=f"{subset}-{split}.jsonl")
        else:
            parquet(folder / f"{subset}-{split}.parquet", lines)
    suffix = "jsonl" if kind == "json" else "parquet"
    configs = "".join(
        f"- config_name: {subset}\n  data_files:\n  - split: train\n    path: {subset}-train.{suffix}\n"
        f"  - split: test\n    path: {subset}-test.{suffix}\n"
        for subset in ("one", "two")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return str(folder)


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_a_folder_in_the_shape_of_a_hub_data_set(tmp_path, datasets, kind):
    name = hub_folder(tmp_path / "gsm8k", kind)
    assert truths(Source(hub=name, subset="one")) == ["00", "01"]
    assert truths(Source(hub=name, subset="two", split="test")) == ["30", "31"]
    assert truths(Source(hub=name, subset="*")) == ["00", "01", "20", "21"]


def test_a_hub_task(tmp_path, datasets):
    name = hub_folder(tmp_path / "gsm8k")
    train, test = Source(hub=name, subset="one"), Source(hub=name, subset="one", split="test")
    task = JsonlTask("sums", train=train, validation=[test])
    assert [row.id for row in task.rows("train")] == ["math/gsm8k/train/0", "math/gsm8k/train/1"]
    assert [row.id for row in task.rows("validation")] == ["math/gsm8k/test/0", "math/gsm8k/test/1"]


@pytest.mark.parametrize(
    ("options", "where"), [({"subset": "three"}, "three"), ({"split": "dev", "subset": "one"}, "dev")]
)
def test_what_is_not_in_a_hub_data_set(tmp_path, datasets, options, where):
    name = hub_folder(tmp_path / "gsm8k")
    with pytest.raises(UserError, match="the data set cannot be loaded") as caught:
        read_rows(Source(hub=name, **options))
    assert where in caught.value.where
    assert "check name, subset and split" in caught.value.fix


def test_bad_rows_of_a_hub_data_set_are_numbered(tmp_path, datasets):
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder, *LINES[:2], {"id": 9, "prompt": "", "answer": 1}, name="train.jsonl")
    with pytest.raises(UserError, match=r"mine \(split train\), row 3, field 'prompt': the text is empty"):
        truths(Source(hub=str(folder)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of path and hub"),
        ({"path": "a", "hub": "b"}, "one of path and hub"),
        ({"path": "a", "split": "test"}, "split belongs to a Hub data set"),
        ({"path": "a", "prompt": "Solve it."}, "no place for the question"),
    ],
)
def test_sources_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        Source(**arguments)


def test_sources_with_the_same_ids(tmp_path):
    first, second = write(tmp_path, GOOD, name="a.jsonl"), write(tmp_path, GOOD, name="b.jsonl")
    with pytest.raises(UserError, match="has an id that another source has too, 'a/1'"):
        JsonlTask("sums", test=[str(first), str(second)])
