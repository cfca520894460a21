from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_sdpo.data.readers import read_rows
from lit_sdpo.rewards.registry import verifier
from tests.verifiers.__main__ import judge, main

CASES = Path(__file__).with_name("cases")


@pytest.mark.parametrize("family", ["science", "tooluse", "logic", "math", "math2"])
def test_cases(family, capsys):
    assert main([str(file) for file in sorted(CASES.glob(f"{family}*.jsonl"))]) == 0
    assert capsys.readouterr().out.strip().endswith("passed, 0 failed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coding", "coding2", "coding_abstain"])
def test_programs(bubblewrap, capsys, name):
    assert main([str(CASES / f"{name}.jsonl")]) == 0, capsys.readouterr().out


def test_a_wrong_score_is_a_failure(tmp_path, capsys):
    case = json.loads((CASES / "science.jsonl").read_text(encoding="utf-8").split("\n")[0])
    case["expected"] = 1.0 - case["expected"]
    assert not judge(case)[0]
    file = tmp_path / "cases.jsonl"
    file.write_text(json.dumps(case), encoding="utf-8")
    assert main([str(file)]) == 1
    assert capsys.readouterr().out.endswith("0 passed, 1 failed\n")


def test_an_abstention_can_be_expected():
    case = {"id": "c", "verifier": "numeric_boxed", "ground_truth": "no number", "response": r"\boxed{3}"}
    assert judge(case | {"expected": "abstain"}) == (True, "")
    assert judge(case | {"expected": 0.0}) == (False, "score abstain, expected 0.0")
    assert not judge(case | {"ground_truth": "3", "expected": "abstain"})[0]


FILES = sorted((Path(__file__).parents[1] / "data" / "files").glob("*.jsonl"))
ROWS = [path for path in FILES if '"verifier"' in path.read_text(encoding="utf-8")]


def check_references(path):
    """Every row's answer in its contract's form, or its reference solution, is accepted."""
    rows, skipped = read_rows(path)
    assert skipped == 0
    for row in rows:
        if row.reference is not None:
            verdict = verifier(row.verifier)(row.reference, row)
            assert verdict.score == 1.0, (row.id, verdict)
    return sum(row.reference is not None for row in rows)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_reference_answers_are_accepted(path, request):
    if "code_tests" in path.read_text(encoding="utf-8"):
        request.getfixturevalue("bubblewrap")
    assert check_references(path) > 0
