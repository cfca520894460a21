"""Numbers that need not be exact."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lit_sdpo.ranges import check_number
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract, last_boxed, right_or
from lit_sdpo.rewards.mathematics.number import Number, read_number
from lit_sdpo.rewards.mathematics.text import tidy


class NumberNear(Contract):
    r"""The number in the last ``\boxed{...}`` is close to the ground truth (``numeric_boxed``).

    ``|answer - truth| <= max(absolute, relative * |truth|)``. Currency, separators and a unit on one side do not
    matter; units on both sides have to measure the same, and are converted. Words that multiply do so: 5 million is
    5,000,000. 50 % is 0.5, and 50 where both numbers are greater than 1.

    Args:
        relative: Tolerance as a share of the truth.
        absolute: Tolerance in the unit of the truth, for truths near 0.

    Example:
        >>> check = NumberNear(relative=0.01)
        >>> check.judge(r"\boxed{3.15}", "3.14159").score, check.judge(r"\boxed{3.2}", "3.14159").score
        (1.0, 0.0)
    """

    markers = (r"\\boxed\s*\{",)
    form = r"Put the number in \boxed{}."

    def __init__(self, relative: float = 1e-2, absolute: float = 1e-9) -> None:
        check_number("relative", relative, at_least=0)
        check_number("absolute", absolute, at_least=0)
        self.relative, self.absolute = Fraction(relative), Fraction(absolute)

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the number in the last box."""
        answer = last_boxed(text)
        if answer is None or not answer.strip():
            return self.missing()
        number = read_number(tidy(answer))
        if number is None:
            return self.malformed("The box does not hold one number.")
        truth = self._truth(ground_truth)
        near = any(
            abs(given - wanted) <= max(self.absolute, self.relative * abs(wanted))
            for given, wanted in number.candidates(truth)
        )
        return right_or(near, "The number is wrong.")

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The ground truth in a box."""
        self._truth(ground_truth)
        text = rf"\boxed{{{ground_truth.strip()}}}"
        if self.judge(text, ground_truth).score != 1.0:
            raise ValueError("it cannot be written in a box")
        return text

    @staticmethod
    def _truth(ground_truth: str) -> Number:
        number = read_number(tidy(ground_truth))
        if number is None:
            raise ValueError("it has to be a number")
        return number
