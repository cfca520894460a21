"""Two text operations as a small Python function (out of distribution: three), run by an interpreter of our own."""

from __future__ import annotations

import json
import random
from itertools import product

from lit_sdpo.data.micro.domain import (
    LONG_FORM_SHARES,
    Domain,
    Position,
    Problem,
    Style,
    Variant,
    WrapperName,
    distinct,
)
from lit_sdpo.data.micro.interpreter import RefusedError, run
from lit_sdpo.rewards.base import Verdict

#: Request and statement; ``?`` stands for a letter.
_OPERATIONS = {
    "double s": "s + s",
    "triple s": "s * 3",
    "shout s": "s.upper()",
    "lower s": "s.lower()",
    "flip s": "s[::-1]",
    "skip first": "s[1:]",
    "cut last": "s[:-1]",
    "add ?": "s + '?'",
    "lead ?": "'?' + s",
    "drop ?": "s.replace('?', '')",
    "star ?": "s.replace('?', '*')",
}
_LETTERS = "abcdefghijklm"
_INPUTS = ("Cab lid", "fjgekHm", "Magic hElf")
_Step = tuple[str, str]
_STEPS: list[_Step] = [
    (request.replace("?", letter), expression.replace("?", letter))
    for request, expression in _OPERATIONS.items()
    for letter in (_LETTERS if "?" in request else "-")
]


def _source(steps: tuple[_Step, ...]) -> str:
    return "\n".join(["def f(s):", *(f"    s = {expression}" for _, expression in steps), "    return s"])


def _problem(steps: tuple[_Step, ...]) -> Problem:
    outputs = run(_source(steps), _INPUTS)
    return Problem(", ".join(step[0] for step in steps), json.dumps([list(_INPUTS), outputs]), steps)


def _draw(rng: random.Random) -> Problem:
    kinds = rng.sample([request.split()[0] for request in _OPERATIONS], 3)
    return _problem(tuple(rng.choice([step for step in _STEPS if _kind(step) == kind]) for kind in kinds))


def _kind(step: _Step) -> str:
    return step[0].split()[0]


def _wrong(steps: tuple[_Step, ...], truth: str, style: Style, rng: random.Random) -> tuple[_Step, ...]:
    """Steps with another result: one left out (hasty) or one replaced (slip)."""
    while True:
        at = rng.randrange(len(steps))
        changed = (*steps[:at], *((rng.choice(_STEPS),) if style == "slip" else ()), *steps[at + 1 :])
        if run(_source(changed), _INPUTS) != json.loads(truth)[1]:
            return changed
        style = "slip"


class Code(Domain):
    """``Code f(s): double s, then shout s.`` answered by a fenced function, a statement for each operation."""

    name = "code"
    wrapper = "fence"
    shares = LONG_FORM_SHARES

    def problems(self, variant: Variant) -> list[Problem]:
        """Every ordered pair of different operations, or 4096 triples."""
        if variant == "ood":
            return distinct(_draw, 4096, "code/ood")
        return [_problem(pair) for pair in product(_STEPS, repeat=2) if _kind(pair[0]) != _kind(pair[1])]

    def request(self, problem: Problem, wording: Position, rng: random.Random) -> str:
        """The operations in order."""
        operations = ", then ".join(step[0] for step in problem.parts)
        return f"{operations}." if wording == "shared" else f"Code f(s): {operations}."

    def respond(self, problem: Problem, style: Style, wrapper: WrapperName | None, rng: random.Random) -> str:
        """The function; hasty leaves an operation out, a slip has a wrong one."""
        steps = _wrong(problem.parts, problem.answer, style, rng) if style in ("hasty", "slip") else problem.parts
        source = _source(steps)
        if style == "noform":
            return source
        if style == "cross":
            return "\\boxed{" + "; ".join(f"s = {expression}" for _, expression in steps) + "}"
        opening = "" if style == "hasty" else rng.choice(("", "Code:\n"))
        return f"{opening}```python\n{source}\n```" + ("\n\\boxed{f}" if style == "dual" else "")

    def extract(self, completion: str, wrapper: WrapperName | None) -> tuple[str, int] | None:
        """The inside of the last closed fence."""
        pieces = completion.split("```")
        if len(pieces) < 3:
            return None
        last = (len(pieces) - 2) // 2 * 2 + 1
        end = len(completion) - len("```".join(pieces[last + 1 :]))
        return pieces[last].removeprefix("python"), end

    def compare(self, answer: str, truth: str, completion: str) -> Verdict:
        """The function gives the expected text for every input."""
        inputs, outputs = json.loads(truth)
        try:
            got = run(answer, inputs)
        except RefusedError as reason:
            return Verdict(0.0, f"The code cannot be run: {reason}.", ("wrong_format",))
        if got == outputs:
            return Verdict(1.0)
        right = sum(a == b for a, b in zip(got, outputs, strict=True))
        return Verdict(0.0, "The result is wrong for some texts." if right else "The result is wrong for every text.")
