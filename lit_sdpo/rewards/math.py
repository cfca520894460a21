r"""Mathematical answers in a box.

Plain answers (numbers, units, words, and tuples, intervals, sets and lists of them) are compared exactly here; what is
left goes to math-verify, which can be caught in a single huge number: ``verifier("math_boxed")`` runs all of it in a
worker process that is killed when it does not answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract, last_boxed, right_or
from lit_sdpo.rewards.math_form import bracketed, read_number, split_top, tidy, without_unit
from lit_sdpo.rewards.symbolic import symbolically_equal

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row

_COMMA = re.compile(r"[,;]|\\text ?\{,? ?(?:and|or) ?\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_CUP = re.compile(r"\\cup(?![a-zA-Z])")
_ASSIGNMENT = re.compile(
    r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?: ?_ ?(?:\w|\{\w+\}))? ?(?:\( ?\w+(?: ?, ?\w+)* ?\))? ?(=|\\in(?![a-zA-Z])) ?"
)
_RELATION = re.compile(r"<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])")
_UNEQUAL = re.compile(r"\\(?:ne|neq|not)(?![a-zA-Z])")
_BASE = re.compile(r"([0-9A-Za-z]+) ?_ ?(?:\{ ?(?:\\text ?\{ ?)?(\w+) ?(?:\} ?)?\}|(\w))\Z")
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_WORDS = re.compile(r"[a-zA-Z][a-zA-Z' -]+\Z")
_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_PRODUCT = re.compile(r"(?<![_^\d.a-zA-Z])(\d+) ?(?=\()")
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+\Z")

#: Seconds after which no further symbolic comparison of one answer starts.
SECONDS = 10.0


#: Characters of an answer that is looked at without the protection of a worker.
SHORT = 100


class _TimeoutError(Exception):
    """The symbolic comparison did not end."""


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
        expected, given = read_number(_tidied(ground_truth)), read_number(tidy(answer))
        if expected is None or given is None:
            return None
        return right_or(expected.equals(given), "The boxed answer is wrong.")

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the last box with the ground truth."""
        answer = last_boxed(text)
        if answer is None or not answer.strip():
            return self.missing()
        try:
            if same(ground_truth, answer):
                return Verdict(1.0)
        except _TimeoutError:
            return self.unfinished("timed_out")
        return Verdict(0.0, "The boxed answer is wrong.")

    def load(self) -> None:
        """Import the computer algebra."""
        symbolically_equal("1", "1")

    def seconds(self, row: Row) -> float:
        """One and a half times what the comparisons of an answer may take."""
        return 1.5 * SECONDS

    def unfinished(self, reason: str) -> Verdict:
        """Score 0: it is the answer that is too large to be evaluated."""
        return Verdict(0.0, "The boxed answer could not be evaluated. Simplify it.", (reason,))

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The reference solution, if any, with the answer in a box."""
        if not ground_truth.strip():
            raise ValueError("it is empty")
        if "####" in ground_truth:
            raise ValueError("it is a whole solution; only what follows #### is the answer")
        if last_boxed(rf"\boxed{{{ground_truth}}}") != ground_truth:
            return None
        solution = extra.get("reference_solution")
        if not isinstance(solution, str) or not solution.strip():
            return rf"\boxed{{{ground_truth}}}"
        boxed = last_boxed(solution)
        if boxed is not None and tidy(boxed) == tidy(ground_truth):
            return solution
        return f"{solution}\n\n\\boxed{{{ground_truth}}}"


def same(expected: str, answer: str) -> bool:
    r"""Whether a boxed answer equals the expected one.

    Example:
        >>> same("1,-2", r"x=-2 \text{ or } x=1"), same("(3,4)", "(4,3)")
        (True, False)
    """
    if len(answer) > 10 * len(expected) + 500:
        return False  # Nobody writes an equal answer that long; a symbolic comparison would only lose time.
    token = _deadline.set(time.monotonic() + SECONDS)
    try:
        return _same(_tidied(expected), tidy(answer))
    finally:
        _deadline.reset(token)


_deadline: ContextVar[float] = ContextVar("deadline")
_tidied = lru_cache(maxsize=65536)(tidy)


def _same(expected: str, answer: str) -> bool:
    """Compare two tidied answers, plain forms first."""
    if _packed(expected) == _packed(answer):
        return True
    if (number := read_number(expected)) is not None:
        other = read_number(answer)
        if other is None:
            other = read_number(_value_side(answer))
        if other is not None:
            return number.equals(other)
    if r"\text" in expected + answer:
        bare = without_unit(expected)[0] or expected, without_unit(answer)[0] or answer
        if bare != (expected, answer):
            return _same(*bare)
    for compare in (_same_base, _same_words, _same_union, _same_list, _same_bracket):
        if (verdict := compare(expected, answer)) is not None:
            return verdict
    if (stripped := (_value_side(expected), _value_side(answer))) != (expected, answer):
        names = [text[: len(text) - len(value)] for text, value in zip((expected, answer), stripped, strict=True)]
        value_only = any(not name and "=" not in value for name, value in zip(names, stripped, strict=True))
        if value_only or _packed(names[0]) == _packed(names[1]):
            return _same(*stripped)
    return _same_expression(expected, answer)


def _packed(text: str) -> str:
    return text.replace(" ", "")


def _value_side(text: str) -> str:
    r"""``5`` of ``x = 5`` and ``[1,2]`` of ``x \in [1,2]``; other texts as they are."""
    found = _ASSIGNMENT.match(text)
    return text[found.end() :] if found and not re.search("[=<>]", text[found.end() :]) else text


def _same_base(expected: str, answer: str) -> bool | None:
    """Numbers with a base, such as ``2516_8``: digits and base have to be the same."""
    left, right = _BASE.match(_value_side(expected)), _BASE.match(_value_side(answer))
    if left is None and right is None:
        return None
    if left is None or right is None:
        digits = (left or right).group(1)  # type: ignore[union-attr]
        return False if digits[0].isdigit() else None
    return (left[1], left[2] or left[3]) == (right[1], right[2] or right[3])


def _same_words(expected: str, answer: str) -> bool | None:
    r"""Words in ``\text{}`` or bare: case, brackets and spaces do not matter. Words never equal a formula."""
    left, right = _words(expected), _words(answer)
    if left is None and right is None:
        return None
    bare = [_TEXT.sub(r"\1", text).strip("() ").casefold() for text in (expected, answer)]
    if r"\text" in expected or r"\text" in answer or (left is not None and right is not None):
        return bare[0] == bare[1]
    return None


def _words(text: str) -> str | None:
    if _TEXT.search(text) and not _COMMA.search(text):
        plain = _TEXT.sub(r"\1", text).strip()
        return plain if re.search("[a-zA-Z]", plain) else None
    return text if _WORDS.match(text) and " " not in text.strip() and len(text) > 3 else None


def _same_union(expected: str, answer: str) -> bool | None:
    """Unions, whatever the order of their parts."""
    left, right = split_top(expected, _CUP), split_top(answer, _CUP)
    if len(left) == len(right) == 1:
        return None
    return _matched(left, right)


def _same_list(expected: str, answer: str) -> bool | None:
    """Comma lists and sets: complete, in any order."""
    if (left := _items(expected)) is None or (right := _items(answer)) is None:
        return None
    if len(left) == 1 and len(right) == 1 and not (_is_set(expected) or _is_set(answer)):
        return None
    if _is_set(expected) or _is_set(answer):
        if any(_is_sequence(text) for text in (expected, answer)):
            return False
        return all(any(_same(a, b) for b in right) for a in left) and all(any(_same(a, b) for a in left) for b in right)
    return _matched(left, right)


def _items(text: str) -> list[str] | None:
    r"""Members of a list or set, ``\pm`` written out; a single expression is a list of one."""
    if read_number(text) is not None:
        return [text]
    bracket = bracketed(text)
    members = split_top(bracket[1] if bracket and bracket[0] == "{" else text, _COMMA)
    values = [_value_side(member) for member in members if member] if len(members) > 1 else members
    signs: list[str] = []
    for value in values:
        if len(re.findall(r"\\pm(?![a-zA-Z])", value)) == 1:
            signs += [re.sub(r"\\pm(?![a-zA-Z])", sign, value).strip().removeprefix("+").strip() for sign in "+-"]
        else:
            signs.append(value)
    return signs


def _is_set(text: str) -> bool:
    bracket = bracketed(_value_side(text))
    return bracket is not None and bracket[0] == "{"


def _is_sequence(text: str) -> bool:
    bracket = bracketed(_value_side(text))
    return bracket is not None and bracket[0] != "{" and len(split_top(bracket[1], _COMMA)) > 1


def _same_bracket(expected: str, answer: str) -> bool | None:
    """Tuples, intervals and inequalities: same brackets, same order."""
    left, right = _sequence(expected), _sequence(answer)
    if left is None and right is None:
        return None
    if left is None or right is None:
        return False if read_number(answer if right is None else expected) is not None else None
    (opening, items, closing), (other_opening, others, other_closing) = left, right
    return (
        (opening, closing) == (other_opening, other_closing)
        and len(items) == len(others)
        and all(_same(a, b) for a, b in zip(items, others, strict=True))
    )


def _sequence(text: str) -> tuple[str, list[str], str] | None:
    bracket = bracketed(_value_side(text))
    if bracket is not None and bracket[0] != "{":
        items = split_top(bracket[1], re.compile(","))
        return (bracket[0], items, bracket[2]) if len(items) > 1 else None
    return _interval(text)


def _interval(text: str) -> tuple[str, list[str], str] | None:
    r"""``x > 2`` as ``(2, \infty)`` and ``1 \le x < 3`` as ``[1, 3)``; ``None`` for anything else."""
    relations = _RELATION.findall(text)
    sides = [side.strip() for side in _RELATION.split(text)]
    if len(relations) not in (1, 2) or not all(sides):
        return None
    if relations[0] in (">", r"\ge"):
        flip = {">": "<", r"\ge": r"\le"}
        if any(relation not in flip for relation in relations):
            return None
        relations, sides = [flip[relation] for relation in reversed(relations)], sides[::-1]
    variable = [index for index, side in enumerate(sides) if re.fullmatch("[a-zA-Z]", side)]
    if any(relation in (">", r"\ge") for relation in relations) or len(variable) != 1:
        return None
    closed = [relation == r"\le" for relation in relations]
    if len(sides) == 3:
        return ("[" if closed[0] else "(", [sides[0], sides[2]], "]" if closed[1] else ")") if variable == [1] else None
    if variable == [0]:
        return "(", [r"-\infty", sides[1]], "]" if closed[0] else ")"
    return "[" if closed[0] else "(", [sides[0], r"\infty"], ")"


def _matched(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether two lists hold equal members, one to one."""
    if len(left) != len(right):
        return False
    rest = list(right)
    for item in left:
        partner = next((index for index, other in enumerate(rest) if _same(item, other)), None)
        if partner is None:
            return False
        del rest[partner]
    return True


def _same_expression(expected: str, answer: str) -> bool:
    """Compare what only algebra can compare."""
    if bool(_UNEQUAL.search(expected)) != bool(_UNEQUAL.search(answer)) or _packed(answer).startswith(("=", ":")):
        return False
    if ":" in expected + answer or r"\text" in expected + answer:
        return False
    left, right = (_PRODUCT.sub(r"\1 \\cdot ", text.removeprefix("+")) for text in (expected, answer))
    if left == right:
        return True
    if any(_DECIMAL_POINT.match(text) and re.search(r"\\(?:sqrt|pi|ln|log)|(?<![a-z])e(?![a-z])", other)
           for text, other in ((left, right), (right, left))):  # fmt: skip
        return False  # A decimal is not equal to an irrational number, however close it is.
    names, others = set(_LETTER.findall(left)), set(_LETTER.findall(right))
    if names != others and {name.lower() for name in names} == {name.lower() for name in others}:
        return False  # Capital and small letters are different variables; math-verify takes them for one.
    if time.monotonic() > _deadline.get():
        raise _TimeoutError
    verdict = symbolically_equal(left, right)
    if verdict is None:
        raise _TimeoutError
    return verdict
