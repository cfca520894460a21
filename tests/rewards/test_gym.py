from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.rewards import gym
from lit_sdpo.rewards.gym import UNSOUND, ReasoningGym

ENTRY = {"question": "156?", "answer": "156", "metadata": {}}
TRUTH = json.dumps({"dataset": "sums", "entry": ENTRY})


def score_answer(answer, entry):
    """As the package scores: partial marks for answers that hold the right one; it raises on what is no number."""
    float(answer)
    return len(entry["answer"]) / len(answer) if entry["answer"] in answer else 0.01


@pytest.fixture
def package(monkeypatch):
    made = SimpleNamespace(create_dataset=lambda name, size, seed: SimpleNamespace(score_answer=score_answer))
    monkeypatch.setitem(sys.modules, "reasoning_gym", made)
    gym._dataset.cache_clear()
    yield
    gym._dataset.cache_clear()


@pytest.mark.parametrize(
    ("text", "score", "flags"),
    [
        ("<answer> 156\n</answer>", 1.0, ()),
        ("<answer>1560</answer>", 0.0, ()),
        ("<answer>7</answer>", 0.0, ()),
        ("<answer>it is 156</answer>", 0.0, ("wrong_format",)),
        ("156", 0.0, ("no_answer",)),
        ("<answer></answer>", 0.0, ("no_answer",)),
    ],
)
def test_only_full_marks_count(package, text, score, flags):
    verdict = ReasoningGym().judge(text, TRUTH)
    assert (verdict.score, verdict.flags) == (score, flags)
    assert "156" not in verdict.feedback


def test_references():
    check = ReasoningGym()
    assert check.reference(TRUTH, {}) == "<answer>\n156\n</answer>"
    assert check.reference(json.dumps({"dataset": "rush_hour", "entry": {"answer": None}}), {}) is None
    for name in UNSOUND:
        with pytest.raises(ValueError, match="not sound"):
            check.reference(json.dumps({"dataset": name, "entry": ENTRY}), {})
    with pytest.raises(ValueError, match="dataset"):
        check.reference("156", {})


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match="pip install reasoning-gym"):
        ReasoningGym().prepare()


def test_the_real_package():
    package = pytest.importorskip("reasoning_gym")
    data = package.create_dataset("basic_arithmetic", size=3, seed=1)
    for entry in data:
        truth = json.dumps({"dataset": "basic_arithmetic", "entry": entry}, default=str)
        check = ReasoningGym()
        assert check.judge(check.reference(truth, {}), truth).score == 1.0
        assert check.judge("<answer>x</answer>", truth).score == 0.0
