"""The example configurations and the page about data, as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from lit_sdpo import ContinualDataModule
from lit_sdpo.cli import main
from lit_sdpo.data.catalogue import TASKS
from lit_sdpo.data.layouts import LAYOUTS
from lit_sdpo.rewards.registry import CONTRACTS
from tests.tiny_model import save_tiny_model

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "configs" / "examples"
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
FAMILIES = {
    "math": ({"math_boxed"}, "math500"),
    "science": ({"mcq_xml"}, "mmlu_redux"),
    "tooluse": ({"tooluse_react"}, "bfcl_multiple"),
    "coding": ({"code_tests"}, "humaneval"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("lit_sdpo.rewards.sandbox.sandbox.Sandbox.prepare", lambda self: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def build(content):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ContinualDataModule, "data", required=True)
    data = {"class_path": "ContinualDataModule", **content["data"]}
    return parser.instantiate(parser.parse_object({"data": data})).data


@pytest.mark.parametrize("name", FAMILIES)
def test_a_configuration_for_each_family(name):
    data = build(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")))
    contracts, probe = FAMILIES[name]
    (task,) = data.tasks
    assert {row.verifier for split in ("train", "validation") for row in task.rows(split)} == contracts
    assert len(task.rows("train")) >= data.stages[0].prompts_per_step
    assert data.probe_names == [probe]
    assert {row.verifier for row in data.probes[0].rows("validation")} == {TASKS[probe].verifier}


def test_sources_can_be_written_out_in_yaml():
    raw = "tests/data/files/layouts"
    text = f"""
      stages:
        - task:
            class_path: JsonlTask
            init_args:
              name: mixed
              train:
                - {raw}/gsm8k.jsonl
                - {{path: {raw}/math500.jsonl, layout: problems, name: theirs}}
              validation: {{path: {raw}/dapo.jsonl, prompt: "Box it. {{question}}"}}
    """
    (task,) = build({"data": {"init_args": yaml.safe_load(text)}}).tasks
    assert [row.id for row in task.rows("train")][2:4] == ["math/gsm8k/train/2", "math/theirs/train/0"]
    assert task.rows("validation")[0].messages[0]["content"].startswith("Box it. Let $a, b, c$ be distinct")


@pytest.mark.parametrize("name", [*FAMILIES, "own_data", "real_tasks"])
def test_the_check_has_nothing_to_say_against_the_examples(name, model, capsys):
    arguments = ["data", "check", str(EXAMPLES / f"{name}.yaml"), "--model", model, "--json"]
    # Programs are run in other tests.
    code = main(
        [*arguments, "--max_prompt_tokens", "4096", *(["--skip_answers"] if name in ("coding", "real_tasks") else [])]
    )
    report = json.loads(capsys.readouterr().out)
    assert (code, report["findings"]) == (0, [])


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_the_example_as_it_is():
    shown, told = blocks("yaml")[0], (EXAMPLES / "own_data.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown)["data"] == yaml.safe_load(told)["data"]
    lines = (EXAMPLES / "own_data_train.jsonl").read_text(encoding="utf-8").splitlines()
    assert blocks("json")[0].splitlines() == lines[:2]


def test_the_page_names_every_task_layout_and_contract():
    assert all(f"| `{name}` |" in PAGE for name in LAYOUTS)
    assert all(f"`{name}`" in PAGE for name in (*TASKS, *{known.verifier for known in TASKS.values()}))
    hubs = {source.hub for known in TASKS.values() for source in (*known.train, *known.evaluation)}
    assert all(hub in PAGE for hub in hubs)
    assert {known.verifier for known in TASKS.values()} <= set(CONTRACTS)


@pytest.mark.slow
def test_from_own_rows_to_a_step(model, tmp_path):
    arguments = ["fit", "--config", str(EXAMPLES / "own_data.yaml"), "--model.model_name", model]
    small = {
        "rollout": {"num_generations": 2, "sampling": {"max_new_tokens": 4}},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    }
    small["trainer"]["logger"] = {"init_args": {"save_dir": str(tmp_path)}}
    stages = yaml.safe_load((EXAMPLES / "own_data.yaml").read_text(encoding="utf-8"))["data"]["init_args"]["stages"]
    small["data"] = {"init_args": {"stages": [{**stages[0], "steps": 1}]}}
    overlay = tmp_path / "small.yaml"
    overlay.write_text(yaml.safe_dump(small))
    assert main([*arguments, "--config", str(overlay)]) == 0
    matrix = json.loads((tmp_path / "own-data-sdpo" / "version_0" / "matrix.json").read_text())
    assert matrix["tasks"] == ["units"]
    assert [entry["step"] for entry in matrix["rows"]] == [0, 1]
