from __future__ import annotations

import pytest

from lit_sdpo.rewards.choice import ExactAnswer
from lit_sdpo.rewards.text import ExactText


@pytest.mark.parametrize(
    ("text", "score", "flags"),
    [(" cba\n", 1.0, ()), ("CBA", 0.0, ()), ("the answer is cba", 0.0, ()), (" ", 0.0, ("no_answer",))],
)
def test_exact_text(text, score, flags):
    verdict = ExactText().judge(text, "cba")
    assert (verdict.score, verdict.flags) == (score, flags)


@pytest.mark.parametrize("truth", [" ", "<think>blue", "no</think>blue"])
def test_texts_that_no_answer_can_say_are_refused(truth):
    for check in (ExactText(), ExactAnswer()):
        with pytest.raises(ValueError, match=r"empty|tag"):
            check.reference(truth, {})
