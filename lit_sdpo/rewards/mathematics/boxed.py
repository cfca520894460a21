r"""Mathematical answers in a box.

``math_text`` brings spellings to one form, ``math_answer`` decides what kind of answer a text is (``math_kinds``), and
``math_equal`` compares kinds. Formulas are read strictly and compared by value (``math_expression``, ``math_compare``).
A huge number can take long: ``verifier("math_boxed")`` runs in a worker that is killed when it does not answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract, last_boxed, right_or
from lit_sdpo.rewards.mathematics.answer import read_answer
from lit_sdpo.rewards.mathematics.equal import answers_equal
from lit_sdpo.rewards.mathematics.number import read_number
from lit_sdpo.rewards.mathematics.text import closed, packed, tidy

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row

#: Seconds for one answer in a worker.
SECONDS = 15.0

#: Characters of an answer that is looked at without the protection of a worker.
SHORT = 100


class MathBoxed(Contract):
    r"""The last ``\boxed{...}`` is mathematically equal to the ground truth (``math_boxed``).

    Tuples and intervals keep order and brackets; sets and lists have no order and must be complete. Units, currency,
    separators, ``x =`` in front and spacing do not matter. A rounded value, a part of a list, two candidates are wrong.

    Example:
        >>> check = MathBoxed()
        >>> check.judge(r"So \boxed{\dfrac{1}{2}}.", "0.5").score, check.judge(r"\boxed{3 \text{ or } 4}", "3").score
        (1.0, 0.0)
    """

    markers = (r"\\boxed\s*\{",)
    isolated = True
    memory = 4 << 30
    form = r"Put the final answer in \boxed{}."

    def at_once(self, text: str, ground_truth: str) -> Verdict | None:
        """The verdict where there is no answer, or two short numbers are compared."""
        answer = last_boxed(text)
        if answer is None or not answer.strip():
            return self.missing()
        if len(answer) > SHORT or len(ground_truth) > SHORT:
            return None
        expected, given = read_number(_tidied(closed(ground_truth))), read_number(tidy(answer))
        if expected is None or given is None:
            return None
        return right_or(expected.equals(given), "The boxed answer is wrong.")

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the last box with the ground truth."""
        answer = last_boxed(text)
        if answer is None or not answer.strip():
            return self.missing()
        return right_or(same(ground_truth, answer), "The boxed answer is wrong.")

    def load(self) -> None:
        """Import the arithmetic of many digits."""
        same("\\pi", "1")

    def seconds(self, row: Row) -> float:
        """A few seconds: nobody needs a number that takes longer."""
        return SECONDS

    def unfinished(self, reason: str) -> Verdict:
        """Score 0: it is the answer that is too large to be evaluated."""
        return Verdict(0.0, "The boxed answer could not be evaluated. Simplify it.", (reason,))

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The reference solution, if any, with the answer in a box.

        Raises:
            ValueError: If no answer can be equal to the ground truth.
        """
        _check(ground_truth)
        box = rf"\boxed{{{closed(ground_truth)}}}"
        solution = extra.get("reference_solution")
        if not isinstance(solution, str) or not solution.strip():
            return box
        boxed = last_boxed(solution)
        if boxed is not None and tidy(boxed) == tidy(ground_truth):
            return solution
        return f"{solution}\n\n{box}"


_NO_ANSWER = re.compile(r"nan|n/a|null|undefined behaviou?r|_+|\?+", re.IGNORECASE)


def _check(ground_truth: str) -> None:
    """Refuse a ground truth that no answer is equal to.

    Raises:
        ValueError: What is wrong with it.
    """
    if not ground_truth.strip():
        raise ValueError("it is empty")
    if "####" in ground_truth:
        raise ValueError("it is a whole solution; only what follows #### is the answer")
    if r"\boxed" in ground_truth:
        raise ValueError("it holds a box; only what stands in the box is the answer")
    if last_boxed(rf"\boxed{{{closed(ground_truth)}}}") != closed(ground_truth):
        raise ValueError("its braces do not balance")
    plain = packed(tidy(ground_truth))
    if not plain:
        raise ValueError("nothing of it is an answer")
    if _NO_ANSWER.fullmatch(plain):
        raise ValueError(f"{plain!r} is no answer")


def same(expected: str, answer: str) -> bool:
    r"""Whether a boxed answer equals the expected one.

    Example:
        >>> same("1,-2", r"x=-2 \text{ or } x=1"), same("(3,4)", "(4,3)")
        (True, False)
    """
    if len(answer) > 10 * len(expected) + 500:
        return False  # Nobody writes an equal answer that long.
    left, right = _tidied(closed(expected)), tidy(answer)
    if packed(left) == packed(right):
        return bool(right)
    return answers_equal(read_answer(left), read_answer(right))


_tidied = lru_cache(maxsize=65536)(tidy)
