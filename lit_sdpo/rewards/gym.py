"""Answers to the generated puzzles of reasoning_gym, scored by the generator that made them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.choice import ExactAnswer
from lit_sdpo.rewards.contract import right_or

#: Generators of version 0.1.25 whose scorers accept answers that are wrong.
UNSOUND = {
    "coin_flip": "0 is accepted for every answer that begins with 0",
    "game_of_life_halting": "every text is accepted",
    "gsm_symbolic": "1687.5.0 is accepted for 1687.5",
}


class ReasoningGym(ExactAnswer):
    """The stripped text of the last ``<answer>`` tag is right for its generator (``reasoning_gym``).

    ``ground_truth`` is JSON, ``{"dataset": name, "entry": {"question", "answer", "metadata"}}``. Scorers of the package
    give partial scores for answers with the right one somewhere in them, and some for no answer at all: only full marks
    count. A scorer that raises has been given something that is no answer.

    Needs the package ``reasoning-gym``.
    """

    isolated = True

    def load(self) -> None:
        """Import the package."""
        _package()

    def prepare(self) -> None:
        """Check that the package is there."""
        _package()

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Ask the generator about the tag's content."""
        given = json.loads(ground_truth)
        scorer = _dataset(given["dataset"])
        answer = self.last(text)
        if not answer:
            return self.missing()
        try:
            score = scorer.score_answer(answer=answer, entry=given["entry"])
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SyntaxError):
            return self.malformed("The answer in the tag could not be read.")
        return right_or(score >= 1.0, "The answer in the tag is wrong.")

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The entry's answer in the tag, where it has one."""
        try:
            given = json.loads(ground_truth)
            name, answer = given["dataset"], given["entry"]["answer"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError('it has to be JSON like {"dataset": "...", "entry": {...}}') from error
        if name in UNSOUND:
            raise ValueError(f"the scorer of {name} is not sound: {UNSOUND[name]}")
        return super().reference(answer, extra) if isinstance(answer, str) else None


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
