from __future__ import annotations

import gzip
import json

import pytest

from lit_sdpo.data.catalogue import TASKS
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.layouts import LAYOUTS
from lit_sdpo.data.named import NamedTask
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import CONTRACTS
from tests.data.test_records import datasets, hub_folder  # noqa: F401
from tests.tiny_model import FILES

RAW = FILES / "layouts"


@pytest.fixture(autouse=True)
def no_sandbox_and_no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("lit_sdpo.rewards.sandbox.sandbox.Sandbox.prepare", lambda self: None)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_known_fits_together(name):
    known = TASKS[name]
    assert known.verifier in CONTRACTS
    assert all(source.hub and source.layout in LAYOUTS for source in (*known.train, *known.evaluation))
    assert set(known.parts) <= {"train", "test"}
    if known.train or known.evaluation:
        assert NamedTask(name).name == name  # nothing is read, so nothing is downloaded
    else:
        with pytest.raises(UserError, match="the Hub has nothing for task"):
            NamedTask(name)


@pytest.mark.parametrize(
    ("task", "train", "validation"),
    [
        ("math", "dapo.jsonl", "math500.jsonl"),
        ("science", "sciknoweval.json", None),
        ("tooluse", "tooluse.json", None),
        ("gsm8k", "gsm8k.jsonl", "math500.jsonl"),
        ("bfcl_multiple", None, "bfcl/BFCL_v4_multiple.json"),
        ("humaneval", None, "humaneval.jsonl.gz"),
    ],
)
def test_raw_files_by_name(task, train, validation):
    paths = {"train": train and str(RAW / train), "validation": validation and str(RAW / validation)}
    found = NamedTask(task, **paths)
    rows = [row for split, path in paths.items() if path for row in found.rows(split)]
    assert {row.verifier for row in rows} == {TASKS[task].verifier}
    assert all(found.verify(row.reference, row).score == 1.0 for row in rows if task not in ("humaneval",))
    assert found.markers


def test_a_folder_of_prepared_files(tmp_path):
    (tmp_path / "math").mkdir()
    for name in ("gsm8k_train", "gsm8k_test"):
        content = (FILES / f"{name}.jsonl").read_bytes()
        target = tmp_path / "math" / f"{name}.jsonl"
        target.write_bytes(content) if name.endswith("test") else target.with_suffix(".jsonl.gz").write_bytes(
            gzip.compress(content)
        )
    task = NamedTask("gsm8k", folder=tmp_path)
    plain = JsonlTask("gsm8k", train=FILES / "gsm8k_train.jsonl", validation=FILES / "gsm8k_test.jsonl")
    assert task.rows("train") == plain.rows("train")
    assert task.rows("validation") == task.rows("test") == plain.rows("validation")
    with pytest.raises(UserError, match=r"folder .* has nothing for task mbpp"):
        NamedTask("mbpp", folder=tmp_path)


def test_a_probe_never_reads_its_training_rows(tmp_path):
    task = NamedTask("gsm8k", train=tmp_path / "none.jsonl", validation=RAW / "gsm8k.jsonl", limit=2)
    assert [row.id for row in task.rows("validation")] == ["math/gsm8k/test/0", "math/gsm8k/test/1"]
    with pytest.raises(UserError, match="task gsm8k, argument train: there is no file"):
        task.rows("train")


def test_evaluated_prompts_are_not_trained_on(tmp_path):
    evaluated = tmp_path / "some.jsonl"
    evaluated.write_text((RAW / "gsm8k.jsonl").read_text().splitlines()[1])
    task = NamedTask("gsm8k", name="sums", train=RAW / "gsm8k.jsonl", validation=evaluated)
    assert [row.id for row in task.rows("train")] == ["math/gsm8k/train/0", "math/gsm8k/train/2"]
    assert (task.name, task.overlap) == ("sums", 1)


def test_rows_of_other_contracts_in_a_mixed_data_set_are_left_out(tmp_path):
    lines = [
        {"prompt": "user: 1+1?", "ground_truth": ["2"], "dataset": ["math"], "custom_id": "a"},
        {"prompt": "user: Add.", "ground_truth": ['["assert f(1) == 2"]'], "dataset": ["code"], "custom_id": "b"},
    ]
    path = tmp_path / "dolci.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row.id for row in NamedTask("coding", train=str(path)).rows("train")] == ["coding/dolci/train/b"]
    path.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(UserError, match="scored by math_boxed, but the task has the contract code_tests"):
        NamedTask("coding", train=str(path)).rows("train")


def test_files_of_another_contract():
    task = NamedTask("gsm8k", validation=RAW / "sciknoweval.json")
    with pytest.raises(UserError, match="scored by mcq_xml, but the task has the contract math_boxed"):
        task.rows("validation")


def test_mistakes():
    with pytest.raises(UserError, match=r"no task 'gsm9k'\. Use one of: gsm8k"):
        NamedTask("gsm9k")
    with pytest.raises(UserError, match="no folder 'nowhere'"):
        NamedTask("gsm8k", folder="nowhere")


def test_the_hub_names_are_loaded(tmp_path, datasets, monkeypatch):  # noqa: F811
    """The data set's own name leads to a local folder of its shape; everything behind it is the real code."""
    folder = hub_folder(tmp_path / "gsm8k")
    load = datasets.load_dataset
    asked = []

    def local(name, subset, **options):
        asked.append((name, subset, options["split"]))
        return load(folder, "one", **options)

    monkeypatch.setattr(datasets, "load_dataset", local)
    task = NamedTask("gsm8k")
    assert [row.ground_truth for row in task.rows("validation")] == ["10", "11"]
    assert [row.ground_truth for row in task.rows("train")] == ["00", "01"]
    assert asked[0] == ("openai/gsm8k", "main", "test")
    assert asked[-1] == ("openai/gsm8k", "main", "train")
