"""Sums and differences of three small numbers (out of distribution: four), worked out step by step."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from itertools import product
from typing import ClassVar

from lit_sdpo.data.micro.domain import Domain, Position, Problem, Style, Variant, WrapperName, distinct, unwrap, wrap
from lit_sdpo.rewards.base import Verdict

_WORDINGS = ("Compute {}.", "What is {}?", "Work out {}.")
_STEP = re.compile(r"([0-9]{1,6})([+-])([0-9]{1,6})=(-?[0-9]{1,6})")
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,9}\s*")
_PLACES = ("first", "second", "third", "fourth", "fifth")


def _apply(left: int, sign: str, right: int) -> int:
    return left + right if sign == "+" else left - right


def _totals(numbers: tuple[int, ...], signs: tuple[str, ...]) -> list[int]:
    totals = [numbers[0]]
    for sign, number in zip(signs, numbers[1:], strict=True):
        totals.append(_apply(totals[-1], sign, number))
    return totals


def _problem(numbers: tuple[int, ...], signs: tuple[str, ...]) -> Problem | None:
    """The problem, or ``None`` where a partial result is negative."""
    totals = _totals(numbers, signs)
    if min(totals) < 0:
        return None
    text = " ".join([str(numbers[0]), *(f"{sign} {number}" for sign, number in zip(signs, numbers[1:], strict=True))])
    return Problem(text, str(totals[-1]), (numbers, signs))


def _draw(rng: random.Random) -> Problem:
    while True:
        numbers = tuple(rng.randint(1, 9) for _ in range(4))
        problem = _problem(numbers, tuple(rng.choice("+-") for _ in range(3)))
        if problem is not None:
            return problem


class Math(Domain):
    r"""``Compute 3 - 3 + 1. Use \boxed{}.`` answered by ``3-3=0, 0+1=1. \boxed{1}``."""

    name = "math"
    wrapper = "boxed"
    shares: ClassVar[Mapping[Style, float]] = {
        "good": 0.40,
        "noform": 0.20,
        "hasty": 0.16,
        "slip": 0.14,
        "cross": 0.06,
        "dual": 0.04,
    }

    def problems(self, variant: Variant) -> list[Problem]:
        """Every sum of three numbers from 0 to 9, or 4096 sums of four from 1 to 9; no partial result is negative."""
        if variant == "ood":
            return distinct(_draw, 4096, "math/ood")
        every = (_problem(n, s) for n in product(range(10), repeat=3) for s in product("+-", repeat=2))
        return [problem for problem in every if problem is not None]

    def request(self, problem: Problem, wording: Position, rng: random.Random) -> str:
        """The sum, in one of three wordings of its own."""
        return f"{problem.text}." if wording == "shared" else rng.choice(_WORDINGS).format(problem.text)

    def respond(self, problem: Problem, style: Style, wrapper: WrapperName | None, rng: random.Random) -> str:
        """The steps and the result; a slip is off by one or two in one step and goes on from there."""
        numbers, signs = problem.parts
        totals = _totals(numbers, signs)
        if style == "hasty":
            guess = rng.choice([n for n in range(max(0, totals[-1] - 3), totals[-1] + 4) if n != totals[-1]])
            return wrap(str(guess), wrapper)
        if style == "slip":
            at = rng.randrange(1, len(totals))
            shift = rng.choice([d for d in (-2, -1, 1, 2) if min(totals[at:]) + d >= 0])
            totals[at:] = [total + shift for total in totals[at:]]
        pairs = zip(totals, signs, numbers[1:], totals[1:], strict=False)
        steps = ", ".join(f"{left}{sign}{right}={result}" for left, sign, right, result in pairs)
        work, answer = f"{rng.choice(('', 'Step: '))}{steps}.", str(totals[-1])
        if style == "noform":
            return f"{work} So {answer}."
        if style == "cross":
            return f"{work} {wrap(answer, 'answer')}"
        ending = f" {wrap(answer, 'answer')}" if style == "dual" else ""
        return f"{work} {wrap(answer, wrapper)}{ending}"

    def extract(self, completion: str, wrapper: WrapperName | None) -> tuple[str, int] | None:
        """What the last box holds."""
        return unwrap(completion, wrapper)

    def compare(self, answer: str, truth: str, completion: str) -> Verdict:
        """Integers are equal; the feedback names the first wrong step."""
        if not _INTEGER.fullmatch(answer):
            return Verdict(0.0, "The answer is not a whole number.", ("wrong_format",))
        if int(answer) == int(truth):
            return Verdict(1.0)
        steps = _STEP.findall(completion[:400])
        for place, (left, sign, right, result) in zip(_PLACES, steps, strict=False):
            if _apply(int(left), sign, int(right)) != int(result):
                return Verdict(0.0, f"The {place} step is wrong.")
        return Verdict(0.0, "The answer does not follow." if steps else "Show the steps: the answer is wrong.")
