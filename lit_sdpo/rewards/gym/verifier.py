"""The contract of the generated puzzles of reasoning_gym."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict, failed
from lit_sdpo.rewards.choice import ExactAnswer
from lit_sdpo.rewards.contract import right_or
from lit_sdpo.rewards.gym.forms import FORMS
from lit_sdpo.rewards.gym.forms import text as as_text
from lit_sdpo.rewards.gym.rules import DECIDED, GUARDS, UNSOUND

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row


class ReasoningGym(ExactAnswer):
    """The stripped text of the last ``<answer>`` tag is right for its generator (``reasoning_gym``).

    ``ground_truth`` is JSON, ``{"dataset": name, "entry": {"question", "answer", "metadata"}}``. Where a puzzle has one
    answer, equality with it decides. Where it has several, the answer has to have the form that was asked for, and the
    package's scorer has to give it full marks. See :mod:`lit_sdpo.rewards.gym.rules`.

    Needs the package ``reasoning-gym``.
    """

    isolated = True

    def load(self) -> None:
        """Import the package."""
        _package()

    def prepare(self) -> None:
        """Check that the package is there."""
        _package()

    def seconds(self, row: Row) -> float:
        """Time for one completion in a worker."""
        return 20.0

    def unfinished(self, reason: str) -> Verdict:
        """Score 0: it is the answer that is too large to be evaluated."""
        return Verdict(0.0, "The answer in the tag could not be evaluated. Simplify it.", (reason,))

    def at_once(self, text: str, ground_truth: str) -> Verdict | None:
        """The verdict where the package's scorer is not asked."""
        return None if json.loads(ground_truth)["dataset"] in GUARDS else self.judge(text, ground_truth)

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the tag's content with the answer, or ask the generator about it."""
        given = json.loads(ground_truth)
        name, entry = given["dataset"], given["entry"]
        if name in UNSOUND:
            return failed(f"unsound_generator_{name}")
        answer = self.last(text)
        if not answer:
            return self.missing()
        if not (name in DECIDED or name in GUARDS):
            expected = FORMS.get(name, as_text)(str(entry["answer"]))
        try:
            if name in GUARDS:
                right = GUARDS[name](answer, entry) and _dataset(name).score_answer(answer=answer, entry=entry) >= 1.0
            elif name in DECIDED:
                right = DECIDED[name](answer, entry)
            else:
                right = FORMS.get(name, as_text)(answer) == expected
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SyntaxError):
            return self.malformed("The answer in the tag could not be read.")
        return right_or(right, "The answer in the tag is wrong.")

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The entry's answer in the tag, where it has one."""
        try:
            given = json.loads(ground_truth)
            name, answer, metadata = given["dataset"], given["entry"]["answer"], given["entry"].get("metadata")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError('it has to be JSON like {"dataset": "...", "entry": {...}}') from error
        if name in UNSOUND:
            raise ValueError(f"puzzles of {name} cannot be judged: {UNSOUND[name]}")
        if name in GUARDS or name in DECIDED:
            if not isinstance(metadata, dict):
                raise ValueError(f"the entry has no metadata, by which answers to {name} are judged")
            # Some entries hold what is no answer, such as an integral that is not solved.
            usable = isinstance(answer, str) and _allowed(name, answer, given["entry"])
            return super().reference(answer, extra) if usable else None
        text = super().reference(str(answer), extra) if isinstance(answer, str | int) else None
        if text is None or self.judge(text, ground_truth).score != 1.0:
            raise ValueError(f"its answer, with which those to {name} are compared, cannot be read")
        return text


def _allowed(name: str, answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether an answer has the form that was asked for, or is right by a rule of its own."""
    try:
        return (GUARDS.get(name) or DECIDED[name])(answer.strip(), entry)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SyntaxError):
        return False


def _package() -> Any:
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise UserError(
            "puzzles of reasoning_gym need its package",
            where="reasoning_gym",
            fix="install it: pip install reasoning-gym",
        ) from error


@lru_cache(maxsize=256)
def _dataset(name: str) -> Any:
    """The generator, which scores entries of any seed and size."""
    return _package().create_dataset(name, size=1, seed=0)
