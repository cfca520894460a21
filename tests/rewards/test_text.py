from __future__ import annotations

import pytest

from lit_sdpo.rewards.text import ExactText


@pytest.mark.parametrize(
    ("text", "score", "flags"),
    [(" cba\n", 1.0, ()), ("CBA", 0.0, ()), ("the answer is cba", 0.0, ()), (" ", 0.0, ("no_answer",))],
)
def test_exact_text(text, score, flags):
    verdict = ExactText().judge(text, "cba")
    assert (verdict.score, verdict.flags) == (score, flags)
