"""Choice and short answers: a letter in an XML tag or a box, or a text in a tag."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract, last_boxed, right_or
from lit_sdpo.rewards.thinking import final_text

# No tag inside the tag, so doubled tags give the inner one and unclosed tags cost linear time.
_ANSWER = re.compile(r"<answer>([^<]*(?:<(?!/?answer>)[^<]*)*)</answer>")
_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|boxed)\s*\{(.*)\}\Z", re.DOTALL)
_LETTER = re.compile(r"[A-Z]\Z")


class ExactAnswer(Contract):
    """The stripped text of the last ``<answer>...</answer>`` is the ground truth.

    Example:
        >>> ExactAnswer().judge("It is <answer> Oslo </answer>.", "Oslo").score
        1.0
    """

    markers = (r"<answer>[\s\S]*?</answer>",)
    form = "Write the answer between <answer> and </answer>."

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the last tag's content with the ground truth."""
        answer = self.last(text)
        return self.compare(answer, ground_truth.strip()) if answer else self.missing()

    @staticmethod
    def last(text: str) -> str:
        """The stripped text of the last tag; empty where there is none."""
        found = _ANSWER.findall(text)
        return found[-1].strip() if found else ""

    def compare(self, answer: str, expected: str) -> Verdict:
        """Score the stripped content of the tag."""
        return right_or(answer == expected, "The answer in the tag is wrong.")

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The ground truth in the tag, after the reference solution where there is one."""
        if not ground_truth.strip() or "<answer>" in ground_truth or "</answer>" in ground_truth:
            raise ValueError("it has to be a text without answer tags")
        if final_text(ground_truth) != ground_truth:
            raise ValueError("it holds a tag of thinking, and what stands before that is no answer")
        solution = extra.get("reference_solution")
        tag = f"<answer>\n{ground_truth.strip()}\n</answer>"
        return f"{solution}\n{tag}" if isinstance(solution, str) else tag


class ChoiceTag(ExactAnswer):
    """The last ``<answer>...</answer>`` holds exactly the right letter (``mcq_xml``).

    Example:
        >>> ChoiceTag().judge("<answer>Option B</answer>", "B").flags
        ('wrong_format',)
    """

    form = "Write only the letter of the correct option between <answer> and </answer>."

    def compare(self, answer: str, expected: str) -> Verdict:
        """Score a letter."""
        if answer == expected:
            return Verdict(1.0)
        if not _LETTER.match(answer):
            return self.malformed("The tag holds more than one letter.")
        return Verdict(0.0, f"Option {answer} is wrong.")

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The letter in the tag."""
        if not _LETTER.match(ground_truth):
            raise ValueError("it has to be one capital letter")
        return super().reference(ground_truth, extra)


class ChoiceBox(Contract):
    r"""The last ``\boxed{...}`` holds the right letter (``mcq_boxed``), bare or wrapped in ``\text{}`` or brackets.

    Example:
        >>> ChoiceBox().judge(r"So $\boxed{\text{(C)}}$.", "C").score
        1.0
    """

    markers = (r"\\boxed\s*\{",)
    form = r"Write only the letter of the correct choice in \boxed{}."

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the letter in the last box."""
        answer = last_boxed(text)
        if answer is None or not answer.strip():
            return self.missing()
        letter = _unwrap(answer)
        if not _LETTER.match(letter):
            return self.malformed("The box does not hold one letter.")
        return right_or(letter == ground_truth.strip(), f"Choice {letter} is wrong.")

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The letter in a box."""
        if not _LETTER.match(ground_truth):
            raise ValueError("it has to be one capital letter")
        return rf"\boxed{{{ground_truth}}}"


def _unwrap(answer: str) -> str:
    """Take text macros, brackets and a full stop off a letter; six layers are more than anybody writes."""
    for _ in range(6):
        answer = answer.strip().removesuffix(".").strip()
        if wrapped := _WRAPPED.match(answer):
            answer = wrapped.group(1)
        elif len(answer) > 2 and answer[0] + answer[-1] in ("()", "[]", "{}"):
            answer = answer[1:-1]
    return answer.upper() if answer.isascii() else answer
