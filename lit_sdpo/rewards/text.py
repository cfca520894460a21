"""Plain text answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract, right_or
from lit_sdpo.rewards.thinking import final_text


class ExactText(Contract):
    r"""The whole answer is the ground truth, outer white space aside (``exact_text``).

    Example:
        >>> ExactText().judge(" blue\n", "blue").score
        1.0
    """

    form = "Write the answer and nothing else."

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the stripped texts."""
        answer = text.strip()
        return right_or(answer == ground_truth.strip(), "The answer is wrong.") if answer else self.missing()

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The ground truth itself."""
        if not ground_truth.strip():
            raise ValueError("it is empty")
        if final_text(ground_truth) != ground_truth:
            raise ValueError("it holds a tag of thinking, and what stands before that is no answer")
        return ground_truth.strip()
