from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from lit_sdpo.diagnosis import behaviour
from lit_sdpo.diagnosis.configuration import build
from lit_sdpo.overrides import import_named_classes

ROOT = Path(__file__).parents[2]
TOLD = (ROOT / "docs" / "behaviour.md").read_text(encoding="utf-8")
SCRIPTS = {path.name for path in (ROOT / "findings").glob("*.sh")} - {"lib.sh", "run.sh"}
SHORT = ["--config=configs/micro/sdpo.yaml", "--data.order=[math]", "--data.ood=false", "--data.prior=false"]


@pytest.fixture
def made(tiny):
    return lambda *options: build([*SHORT, f"--model.model_name={tiny}", "--trainer.logger=false", *options])


def anchors(findings):
    return re.findall(r"behaviour\.md#([\w-]+)", " ".join(finding.text for finding in findings))


def test_every_line_has_its_place_on_the_page():
    places = re.findall(r'<a id="([\w-]+)">', TOLD)
    assert len(places) == len(set(places))
    assert {*behaviour.SEEN, *behaviour.BESIDE.values()} <= set(places)


def test_the_page_and_the_scripts_name_each_other():
    assert set(re.findall(r"`(\w+\.sh)`", TOLD)) == SCRIPTS
    assert len(SCRIPTS) >= 12


def test_guards_that_the_page_names_are_there():
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TOLD))
    assert len(named) > 20
    for file, name in sorted(named):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)


def test_every_row_says_what_is_done_about_it():
    rows = [line for line in TOLD.splitlines() if line.startswith("| ") and not line.startswith("| where")]
    assert len(rows) > 35
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 5, row
        assert all(cells[:4]), row


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], []),
        (["--model.optimizer=lit_sdpo.optimizers.PaperAdamW", "--model.optimizer.lr=1e-6"], ["weight-decay"]),
        (["--model.optimizer=lit_sdpo.optimizers.PaperAdamW", "--model.optimizer.lr=1e-5"], []),
        (["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1e-6"], []),
        (["--model.dtype=bfloat16"], []),
        (["--model.dtype=bfloat16", "--model.float32_masters=false"], ["second-moment"]),
        (["--trainer.precision=bf16-true"], ["bf16-true"]),
    ],
)
def test_a_run_is_told_what_it_will_meet(made, options, expected):
    import_named_classes()
    assert anchors(behaviour.met(made(*options))) == expected


def test_averaged_weights_and_files_of_weights_alone(made):
    run = made()
    run.trainer.callbacks += [EMAWeightAveraging(), ModelCheckpoint(save_weights_only=False)]
    assert anchors(behaviour.met(run)) == []
    run.trainer.callbacks += [ModelCheckpoint(save_weights_only=True)]
    assert anchors(behaviour.met(run)) == ["averaged-weights"]


def test_a_token_that_begins_texts_and_turns(made):
    run = made()
    run.tokenizer.bos_token = "<|user|>"
    assert anchors(behaviour.met(run)) == []
    run.tokenizer.chat_template = "<|user|>{{ messages[0]['content'] }}<|end|><|user|>"
    assert anchors(behaviour.met(run)) == ["turn-token"]
    run.data.likelihood = {"piqa": object()}
    assert anchors(behaviour.met(run)) == ["turn-token", "start-of-texts"]


def test_verifiers():
    assert anchors(behaviour.of_verifiers({"math_boxed"})) == []
    assert anchors(behaviour.of_verifiers({"reasoning_gym", "bfcl_ast"})) == ["gym-seeds", "bfcl-text"]


def test_a_version_it_was_not_seen_in_is_told(monkeypatch):
    assert "seen in" not in behaviour.note("bf16-true", "a").text
    monkeypatch.setattr(behaviour, "version", lambda name: "9.1+cpu")
    assert (
        behaviour.note("weight-decay", "a").text
        == "a (docs/behaviour.md#weight-decay; seen in torch 2.13.0, here is 9.1)"
    )


def test_packages_beside_this_one():
    pytest.importorskip("datasets")
    assert list(behaviour.beside(["there-is-none"])) == []
    (line,) = behaviour.beside(["datasets", "there-is-none"])
    assert line.state == "ok"
    assert anchors([line]) == ["datasets"]
