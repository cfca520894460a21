"""What a task is: prompts, their answers, and the verifier that compares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_integer, check_number
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.text import unprintable

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Row:
    """One prompt with what is needed to judge an answer to it.

    Attributes:
        id: Unique within its task and stable between runs; evaluation compares the same ids over time.
        messages: The chat prompt, ``[{"role": ..., "content": ...}, ...]``; a turn may have ``tool_calls``,
            ``tool_call_id``, ``name`` and ``reasoning_content`` too.
        ground_truth: What the verifier compares with, as text (structured answers are JSON).
        verifier: Name of the scoring contract; empty where a task judges by itself, or rewards alone do.
        reference: A correct completion, where the data has one. Supervised training and data-set demonstrations use it.
        extra: Anything else the source says about the row; never needed for scoring.
        columns: What rewards get by name besides: the columns of the source as they stand there, without the prompt.
        conversational: Whether rewards see prompt and completion as messages. The prompt of a row that was one text is
            shown as a text, and so are its completions.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    ground_truth: str
    verifier: str = ""
    reference: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    conversational: bool = True


def check_name(name: str) -> None:
    """Whether a task's name can stand in tags and messages.

    Raises:
        UserError: It has line breaks or control characters.
    """
    if unprintable(name):
        fix = "give it a name in one line"
        raise UserError(f"the name {name!r} has line breaks or control characters", where="task", fix=fix)


class Task(ABC):
    """Prompts of one kind with their verifier; a file or class per task.

    A task is used in a stage (trained on) or as a probe (only evaluated).

    Args:
        name: Appears in every tag and file: ``val/<name>/accuracy``.

    Raises:
        UserError: The name has line breaks or control characters.
    """

    #: Regular expressions that find this task's answer format in a completion.
    markers: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        check_name(name)
        self.name = name

    @property
    def parts(self) -> list[Task]:
        """The tasks that are evaluated for it: itself, or those of a mixture."""
        return [self]

    def part_of(self, row: Row) -> Task:
        """The task that one of its rows belongs to: itself, or one of a mixture."""
        return self

    def __str__(self) -> str:
        """What messages call it."""
        return self.name

    @abstractmethod
    def rows(self, split: Split) -> Sequence[Row]:
        """The rows of one split.

        ``train`` feeds rollouts, ``validation`` every evaluation during training, ``test`` only the final
        ``lit-sdpo test``: nothing may be tuned on it.
        """

    def place(self, split: Split, row: Row) -> str:
        """Where a row stands, for messages."""
        return f"task {self.name} ({split}), row {row.id!r}"

    def leave_out(self, split: Split, ids: Collection[str]) -> bool:
        """Leave out rows that have turned out not to fit, where the task does so; they are counted and told.

        Args:
            split: Their split.
            ids: Their ids.

        Returns:
            Whether they are left out; otherwise such rows are mistakes.
        """
        return False

    def judges(self, row: Row) -> bool:
        """Whether its verifier judges answers to a row; where it does not, rewards alone do."""
        return True

    @abstractmethod
    def verify(self, completion: str, row: Row) -> Verdict:
        """Judge one completion. Never raises on any text; thinking that never ended is not asked about."""


@dataclass(frozen=True, kw_only=True)
class StageMethod:
    """What one stage changes about the method; what it does not name is as in every other stage.

    Attributes:
        terms: Factor of a term's coefficient, by the term's name (``distillation``, ``policy_gradient``, ``replay``,
            ...: those of the tags ``train/loss/<name>``). 0 leaves the term out: its rows, its forward passes and its
            denominator are as if the method had never had it.
        lr: Learning rate that the stage's schedule begins from; with several groups of parameters that of the first,
            the others in proportion. ``None`` takes that of ``model.optimizer``.
        teacher: Name of one of the teachers of a :class:`~lit_sdpo.RoutedTeacher`, which teaches all rows of the stage;
            ``None`` goes by their tasks.

    Raises:
        UserError: A number is out of range.
    """

    terms: Mapping[str, float] = field(default_factory=dict)
    lr: float | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, factor in self.terms.items():
            check_number(f"terms.{name}", factor, at_least=0)
        check_number("lr", self.lr, at_least=0, optional=True)

    def takes_part(self, term: str) -> bool:
        """Whether the stage trains on a term at all."""
        return self.terms.get(term, 1.0) != 0


@dataclass(kw_only=True)
class Stage:
    """A task and how long it is trained on; one stage is one Lightning epoch.

    Attributes:
        task: The task, or a :class:`~lit_sdpo.data.mixture.Mixture` of several.
        steps: Optimizer steps.
        prompts_per_step: Prompts of one step, over all devices (the paper: 32 for SDPO, 8 for GRPO).
        method: What the stage changes about the method: which terms it trains on, its rate, its teacher.

    Raises:
        UserError: A number is out of range.
    """

    task: Task
    steps: int = 50
    prompts_per_step: int = 32
    method: StageMethod | None = None

    @property
    def changes(self) -> StageMethod:
        """Its ``method``, or none that changes anything."""
        return self.method or StageMethod()

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("steps", "prompts_per_step"):
            check_integer(f"{name} of the stage {self.task.name}", getattr(self, name), at_least=1)
