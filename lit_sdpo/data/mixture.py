"""A stage of several tasks at exact shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal, get_args

from lit_sdpo.data.shares import blocked, interleaved
from lit_sdpo.data.task import Row, Split, Task
from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_number
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.registry import import_object
from lit_sdpo.text import MIXED

Order = Literal["interleaved", "blocked"]


@dataclass(kw_only=True)
class Share:
    """A task of a mixture.

    Attributes:
        task: The task.
        share: Its part of the stage's prompts, above 0.

    Raises:
        UserError: The share is out of range.
    """

    task: Task
    share: float

    def __post_init__(self) -> None:
        """Check the range."""
        check_number(f"share of the task {self.task.name}", self.share, above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class MixedRow(Row):
    """A row within a mixture.

    Attributes:
        part: Index of its task in the mixture.
        original: The row as the task has it.
    """

    part: int
    original: Row


class Mixture(Task):
    """Several tasks that one stage trains on, each at its share of the prompts; they are evaluated one by one.

    Args:
        shares: The tasks and their shares, which sum to 1.
        order: ``interleaved``: every step's prompts hold the tasks at their shares, as exactly as whole prompts allow,
            and what is rounded evens out over the stage. ``blocked``: one task follows the other, each with its share
            of the stage's steps.

    Raises:
        UserError: There are fewer than two tasks, one stands twice, the shares do not sum to 1, or the order is none.
    """

    def __init__(self, shares: list[Share], order: Order = "interleaved") -> None:
        names = [share.task.name for share in shares]
        super().__init__(MIXED.join(names))
        where = "task Mixture"
        if len(shares) < 2:
            text = f"a mixture of {len(shares)} task{'s' * (len(shares) != 1)}"
            raise UserError(text, where=where, fix="give at least two, or the task itself")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"the task {twice[0]!r} stands twice", where=where, fix="give it once, with one share")
        if inner := [share.task.name for share in shares if isinstance(share.task, Mixture)]:
            raise UserError(f"{inner[0]!r} is a mixture itself", where=where, fix="give its tasks one by one")
        if joined := [name for name in names if MIXED in name]:
            text = f"the name {joined[0]!r} reads like that of a mixture"
            raise UserError(text, where=where, fix=f"give the task a name without {MIXED!r}")
        if order not in get_args(Order):
            raise UserError(f"no such order {order!r}", where=where, fix=f"use {' or '.join(get_args(Order))}")
        exact = [Fraction(str(share.share)).limit_denominator(10**6) for share in shares]
        total = sum(exact, Fraction(0))
        if abs(total - 1) > Fraction(1, 10**5):
            told = ", ".join(f"{share.task.name} {share.share}" for share in shares)
            raise UserError(
                f"the shares sum to {float(total):.6g} ({told})", where=where, fix="give shares that sum to 1"
            )
        self.order: Order = order
        self.shares = [share / total for share in exact]
        self._tasks = [share.task for share in shares]
        self.markers = tuple(dict.fromkeys(marker for task in self._tasks for marker in task.markers))

    def __str__(self) -> str:
        """The tasks with their shares and their order."""
        told = ", ".join(f"{float(s):.3g} {task.name}" for s, task in zip(self.shares, self._tasks, strict=True))
        return f"{told}, {self.order}"

    @property
    def parts(self) -> list[Task]:
        """The tasks."""
        return self._tasks

    def part_of(self, row: Row) -> Task:
        """The task of a row that a mixture has handed out."""
        assert isinstance(row, MixedRow), "the rows of a mixture come from its stages"
        return self._tasks[row.part]

    def rows(self, split: Split) -> Sequence[Row]:
        """All training rows, task after task; no others, as the tasks are evaluated one by one."""
        if split != "train":
            return ()
        return [mixed(row, part) for part, task in enumerate(self._tasks) for row in task.rows("train")]

    def judges(self, row: Row) -> bool:
        """Whether the row's own task has a verifier for it."""
        return self.part_of(row).judges(row)

    def verify(self, completion: str, row: Row) -> Verdict:
        """Judge one completion by the row's own task."""
        return self.part_of(row).verify(completion, row.original if isinstance(row, MixedRow) else row)

    def places(self, prompts: int, windows: int) -> list[int]:
        """Index of the task of each prompt of a stage.

        Args:
            prompts: Prompts of a window.
            windows: Windows of the stage.
        """
        if self.order == "blocked":
            return blocked(self.shares, prompts * windows)
        return interleaved(self.shares, prompts, windows)


def mixed(row: Row, part: int) -> MixedRow:
    """A row as that of a mixture.

    Args:
        row: Of one of its tasks.
        part: Index of the task.
    """
    own: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(Row)}
    return MixedRow(**own, part=part, original=row)


def parts_of(spec: Any) -> list[Any]:
    """The parsed specifications of a stage's tasks: its own, or those of a mixture.

    Args:
        spec: ``class_path`` and parsed ``init_args`` of the stage's task.
    """
    if import_object(spec["class_path"]) is not Mixture:
        return [spec]
    return [share["task"] for share in spec["init_args"]["shares"]]
