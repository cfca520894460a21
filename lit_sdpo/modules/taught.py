"""What callbacks may ask of a method with a teacher."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from lit_sdpo.policies.teachers import Teacher
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.teacher_prompts import TeacherPrompts
from lit_sdpo.rollouts.types import Rollouts


@runtime_checkable
class Taught(Protocol):
    """A method that learns from a teacher, as :class:`~lit_sdpo.modules.SDPO` does.

    Attributes:
        policy: The model in training.
        tokenizer: Its tokenizer.
        teacher: What it learns from.
        reprompt: What the teacher is told besides.
        chat_template_options: Further arguments of the chat template.
    """

    policy: Any
    tokenizer: PreTrainedTokenizerBase
    teacher: Teacher
    reprompt: Reprompt
    chat_template_options: dict[str, Any] | None

    def routes(self, rollouts: Rollouts) -> list[str]:
        """Which teacher each of N rows is for."""

    def teacher_prompts(self, rollouts: Rollouts) -> TeacherPrompts:
        """What the teacher reads before each of N completions."""


def taught(module: object) -> Taught:
    """A module whose terms learn from a teacher, as what it is."""
    assert isinstance(module, Taught)
    return module
