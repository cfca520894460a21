"""Verdicts, verifiers and rewards: the protocols of scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion.

    Attributes:
        score: In [0, 1]; ``None`` abstains: counted apart, never a zero.
        feedback: What went wrong, in words a model can use. Never contains the reference answer.
        flags: Short facts for the logs, such as ``"no_answer"`` (nothing in the required format was found).
    """

    score: float | None
    feedback: str = ""
    flags: tuple[str, ...] = ()


def failed(reason: str) -> Verdict:
    """An abstention because the verifier itself failed; these are counted, and too many stop a run.

    Example:
        >>> failed("KeyError").flags
        ('verifier_failed', 'verifier_failed:KeyError')
    """
    return Verdict(None, "", ("verifier_failed", f"verifier_failed:{reason}"))


@runtime_checkable
class Verifier(Protocol):
    """Judges one completion against one row. Never raises on any completion.

    In a run the completion is a :class:`~lit_sdpo.rewards.thinking.Completion`: a text that also knows its ``answer``
    (what stands behind the thinking) and whether it ``finished``. No verifier is asked about thinking that never ended.
    """

    def __call__(self, completion: str, row: Row) -> Verdict:
        """Score ``completion`` as an answer to ``row``."""


@runtime_checkable
class Reward(Protocol):
    """A reward with the signature of TRL, so TRL's reward functions run unchanged.

    Besides the columns of the rows it may ask for ``trainer_state``, ``log_extra(column, values)`` and
    ``log_metric(name, value)``.
    """

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]] | None = None,
        **columns: list[Any],
    ) -> list[float | None]:
        """One score per completion; ``None`` abstains."""
