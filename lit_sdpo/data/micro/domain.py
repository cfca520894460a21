"""What the domains of the micro world share: problems, answer wrappers, and the way a completion is judged."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from lit_sdpo.data.task import Split
from lit_sdpo.rewards.base import Verdict

Variant = Literal["train", "ood"]
Position = Literal["own", "shared"]
WrapperName = Literal["boxed", "answer", "action", "fence"]
Style = Literal["good", "noform", "hasty", "slip", "cross", "dual"]

#: What a response can look like. ``good``: right work in the right wrapper. ``noform``: right work, no wrapper.
#: ``hasty``: no work, a wrong guess. ``slip``: one wrong step, carried through. ``cross``: right, but in another
#: domain's wrapper. ``dual``: right, followed by a foreign wrapper; only a strict verifier refuses it.
STYLES: tuple[Style, ...] = ("good", "noform", "hasty", "slip", "cross", "dual")

#: Share of each style in the base model's responses in the formats of several lines, a call and a program.
LONG_FORM_SHARES: Mapping[Style, float] = {
    "good": 0.36,
    "noform": 0.20,
    "hasty": 0.16,
    "slip": 0.18,
    "cross": 0.06,
    "dual": 0.04,
}

#: The text that gives each wrapper away.
SIGNS: Mapping[WrapperName, str] = {"boxed": "\\boxed{", "answer": "<answer>", "action": "Action:", "fence": "```"}

#: The sentence that names each wrapper at the end of a prompt.
HINTS: Mapping[WrapperName, str] = {
    "boxed": "Use \\boxed{}.",
    "answer": "Use <answer>.",
    "action": "Use Action.",
    "fence": "Use ```python.",
}


@dataclass(frozen=True)
class Problem:
    """One problem, whatever words its prompt will use.

    Attributes:
        text: The problem without wording or format; decides its identity and its split.
        answer: What the verifier compares with.
        parts: What the domain needs to write prompts and responses.
    """

    text: str
    answer: str
    parts: Any

    @cached_property
    def digest(self) -> str:
        """The md5 of ``text`` in hexadecimal."""
        return hashlib.md5(self.text.encode(), usedforsecurity=False).hexdigest()

    @property
    def split(self) -> Split:
        """``validation`` for buckets 0 and 1 of ``digest % 10``, ``test`` for 2, ``train`` for 3 to 9."""
        bucket = int(self.digest, 16) % 10
        return "validation" if bucket < 2 else "test" if bucket == 2 else "train"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one prompt is put and how its answer is wrapped.

    Attributes:
        named: The prompt ends with the sentence that names its answer format.
        wording: ``own`` words of the domain, or the ``shared`` frame ``Task: ...``.
        wrappers: The domain's ``own`` wrapper, or the one it has when wrappers are ``shared``.
    """

    named: bool = True
    wording: Position = "own"
    wrappers: Position = "own"


class Domain(ABC):
    """One kind of problem: how it is asked, answered well and badly, and judged."""

    #: Used in ids and as the default task name.
    name: str
    #: Where an answer stands; ``None``: the whole completion is the answer.
    wrapper: WrapperName | None = None
    #: The same when several domains share a wrapper; ``None``: as ``wrapper``.
    shared_wrapper: WrapperName | None = None
    #: What separates a request from the hint.
    gap: str = " "
    #: Share of each style in the responses the base model learns from.
    shares: ClassVar[Mapping[Style, float]] = {"good": 1.0}
    #: Which variants exist.
    variants: tuple[Variant, ...] = ("train", "ood")

    @abstractmethod
    def problems(self, variant: Variant) -> list[Problem]:
        """Every distinct problem of a variant, always the same ones."""

    @abstractmethod
    def request(self, problem: Problem, wording: Position, rng: random.Random) -> str:
        """The prompt without frame and hint."""

    @abstractmethod
    def respond(self, problem: Problem, style: Style, wrapper: WrapperName | None, rng: random.Random) -> str:
        """A completion in one style."""

    @abstractmethod
    def extract(self, completion: str, wrapper: WrapperName | None) -> tuple[str, int] | None:
        """The last answer in ``completion`` and the position behind it, or ``None``."""

    @abstractmethod
    def compare(self, answer: str, truth: str, completion: str) -> Verdict:
        """Judge an extracted answer; ``completion`` is only for the feedback."""

    def wrapper_of(self, wrappers: Position) -> WrapperName | None:
        """The wrapper of this domain under a setting of the world."""
        return (self.shared_wrapper or self.wrapper) if wrappers == "shared" else self.wrapper

    def prompt(self, problem: Problem, form: Form, rng: random.Random) -> str:
        """The text of the user turn."""
        text = self.request(problem, form.wording, rng)
        if form.wording == "shared":
            text = f"Task: {text}"
        wrapper = self.wrapper_of(form.wrappers)
        return f"{text}{self.gap}{HINTS[wrapper]}" if form.named and wrapper else text

    def judge(self, completion: str, truth: str, *, wrappers: Position = "own", strict: bool = False) -> Verdict:
        """Judge a completion.

        Args:
            completion: Any text.
            truth: The answer of the problem.
            wrappers: Which wrapper the answer must stand in.
            strict: Refuse foreign wrappers, and text after the answer.
        """
        wrapper = self.wrapper_of(wrappers)
        foreign = any(sign in completion for name, sign in SIGNS.items() if name != wrapper)
        flags = ("foreign_marker",) if foreign else ()
        found = self.extract(completion, wrapper)
        if found is None:
            hint = f" {HINTS[wrapper]}" if wrapper else ""
            return Verdict(0.0, f"No answer was found.{hint}", ("no_answer", *flags))
        answer, end = found
        verdict = self.compare(answer, truth, completion)
        if verdict.score and strict and (foreign or completion[end:].strip()):
            return Verdict(0.0, "Give the answer in its own format alone, at the end.", ("wrong_format", *flags))
        return Verdict(verdict.score, verdict.feedback, verdict.flags + flags)


def between(text: str, start: str, end: str) -> tuple[str, int] | None:
    """The last passage between two signs and the position behind it.

    Example:
        >>> between("<a>x</a> <a>y</a>!", "<a>", "</a>")
        ('y', 17)
    """
    last = text.rfind(end)
    begin = text.rfind(start, 0, last) if last >= 0 else -1
    if begin < 0:
        return None
    begin += len(start)
    stop = text.find(end, begin)
    return text[begin:stop], stop + len(end)


def wrap(answer: str, wrapper: WrapperName | None) -> str:
    """A short answer in ``boxed`` or ``answer``."""
    return f"\\boxed{{{answer}}}" if wrapper == "boxed" else f"<answer>{answer}</answer>"


def unwrap(completion: str, wrapper: WrapperName | None) -> tuple[str, int] | None:
    """The inverse of `wrap`: the last short answer and the position behind it."""
    return between(completion, "\\boxed{", "}") if wrapper == "boxed" else between(completion, "<answer>", "</answer>")


def distinct(draw: Callable[[random.Random], Problem], count: int, seed: str) -> list[Problem]:
    """The first ``count`` distinct problems that ``draw`` gives."""
    rng, found = random.Random(seed), dict[str, Problem]()
    while len(found) < count:
        problem = draw(rng)
        found.setdefault(problem.text, problem)
    return list(found.values())


def other(values: Sequence[str], not_this: str, rng: random.Random) -> str:
    """One of ``values`` that differs from ``not_this``."""
    return rng.choice([value for value in values if value != not_this])
