"""Tasks whose rows are read from files or the Hub."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.data.layouts.layout import Layout
from lit_sdpo.data.readers import read_rows, scan
from lit_sdpo.data.source import Source, as_sources
from lit_sdpo.data.task import Row, Split, Task
from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_integer
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.registry import import_object
from lit_sdpo.rewards.registry import verifier as find_verifier

_log = logging.getLogger(__name__)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Plan:
    """What a task will read.

    Attributes:
        name: The task.
        sources: By split.
        on_bad_row: What happens at a row that does not fit.
        limit: Rows of each split, ``None`` for all.
    """

    name: str
    sources: Mapping[Split, Sequence[Source]]
    on_bad_row: Literal["error", "skip"] = "error"
    limit: int | None = None

    def __post_init__(self) -> None:
        check_integer("limit", self.limit, at_least=1, optional=True)


def planned(spec: Any) -> Plan:
    """What a task of a configuration will read; nothing is read yet.

    Args:
        spec: Its ``class_path`` and parsed ``init_args``; the class has a ``plan`` of the same arguments.
    """
    plan: Plan = import_object(spec["class_path"]).plan(**plain_arguments(spec))
    return plan


def plain_arguments(spec: Any) -> dict[str, Any]:
    """The parsed ``init_args`` of an object of a configuration, as plain values."""
    # A namespace's own items() would take a nested one apart.
    return {key: _plain(value) for key, value in vars(spec.get("init_args") or Namespace()).items()}


def _plain(value: Any) -> Any:
    """A parsed argument as plain values."""
    if isinstance(value, Namespace):
        return value.as_dict()
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


class SourceTask(Task):
    """A task that reads each split when it is first asked for.

    Training rows whose prompt also stands in the validation or test rows are left out and counted.

    Attributes:
        reads: What it reads.
        skipped: Rows left out by split because they did not fit.
        overlap: Training rows left out because they are evaluated.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.name)
        self.reads, self.skipped, self.overlap = plan, dict[Split, int](), 0
        self._rows: dict[Split, tuple[Row, ...]] = {}

    def rows(self, split: Split) -> Sequence[Row]:
        """The rows of one split in the order of its sources; none where it has none.

        Raises:
            UserError: A source cannot be read, is empty or has a bad row.
        """
        if split not in self._rows:
            self._rows[split] = self._read(split)
        return self._rows[split]

    def judges(self, row: Row) -> bool:
        """Whether the row has a verifier."""
        return bool(row.verifier)

    def verify(self, completion: str, row: Row) -> Verdict:
        """Judge one completion with the row's verifier; without one it abstains."""
        return find_verifier(row.verifier)(completion, row) if row.verifier else Verdict(None)

    def place(self, split: Split, row: Row) -> str:
        """File and line of a row, which are looked for."""
        for source in self.reads.sources.get(split, ()):
            for entry in scan(source, "train" if split == "train" else "test"):
                if entry.row is not None and entry.row.id == row.id:
                    return entry.place
        return super().place(split, row)

    def leave_out(self, split: Split, ids: Collection[str]) -> bool:
        """Leave rows out where ``on_bad_row`` says ``"skip"``.

        Raises:
            UserError: No row is left.
        """
        if self.reads.on_bad_row != "skip":
            return False
        left = tuple(row for row in self.rows(split) if row.id not in ids)
        self._count_skipped(split, len(self.rows(split)) - len(left), "rows that the chat template cannot write")
        if not left:
            raise UserError("the chat template can write no row", where=self._where(split), fix="mend the template")
        self._rows[split] = left
        return True

    def _count_skipped(self, split: Split, count: int, what: str) -> None:
        self.skipped[split] = self.skipped.get(split, 0) + count
        if count:
            _log.warning("task %s: skipped %d %s", self.name, count, what)

    def _read(self, split: Split) -> tuple[Row, ...]:
        evaluated = {prompt_text(row) for each in SPLITS[1:] for row in self.rows(each)} if split == "train" else set()
        rows: dict[str, Row] = {}
        overlap = 0

        def keep(row: Row) -> bool:
            nonlocal overlap
            known = bool(evaluated) and prompt_text(row) in evaluated
            overlap += known
            return not known

        for source in self.reads.sources.get(split, ()):
            if source.path is not None and not Path(source.path).is_file():
                raise UserError(
                    f"there is no file {source.path!r}", where=self._where(split), fix="give the path of a .jsonl file"
                )
            left = None if self.reads.limit is None else self.reads.limit - len(rows)
            if left == 0:
                break
            before = overlap
            read, skipped = read_rows(
                source,
                on_bad_row=self.reads.on_bad_row,
                split="train" if split == "train" else "test",
                limit=left,
                keep=keep,
                say=self._say,
            )
            self._count_skipped(split, skipped, f"bad rows of {source}")
            if not read and overlap == before:
                raise UserError(f"{source} has no rows", where=self._where(split), fix="give a file with rows")
            if twice := next((row.id for row in read if row.id in rows), None):
                raise UserError(
                    f"{source} has an id that another source has too, {twice!r}",
                    where=self._where(split),
                    fix="give each source a name of its own",
                )
            rows |= {row.id: row for row in read}
        if split == "train":
            self.overlap = overlap
        if overlap:
            _log.warning("task %s: left out %d training rows that are evaluated", self.name, overlap)
        if overlap and not rows:
            raise UserError("every training row is evaluated too", where=f"task {self.name}", fix="give separate files")
        return with_same_columns(tuple(rows.values()))

    def _say(self, layout: Layout) -> None:
        if layout.recognised and layout.name != "rows":
            rank_zero_info(f"task {self.name}: {layout.source} is read in the layout {layout.name}")

    def _where(self, split: Split) -> str:
        return f"task {self.name}, argument {split}"


class JsonlTask(SourceTask):
    """A task read from files or Hub data sets, everything of it checked when it is made.

    Training rows whose prompt also stands in the validation or test file are left out and counted. A task that is only
    evaluated has no ``train`` file. Besides JSON lines, Parquet files and the layouts of public data sets are read;
    ``docs/data.md`` lists them.

    Args:
        name: Appears in every tag and file.
        train: File of the rows to train on, ``.jsonl`` or ``.jsonl.gz``; see ``read_rows`` for the layout. A ``Source``
            says more about a file, or names a data set of the Hub; a list is read one after another.
        validation: File of the rows for every evaluation during training.
        test: File of the rows for the final test.
        verifier: Scores all rows, whatever they say: a contract's name, or the import path of your own.
        columns: Names of the fields in files of another layout; dots lead into objects.
        layout: Name of the files' layout; ``None`` recognises it from the columns.
        prompt: How a question is put, with ``{question}`` in it; ``None`` leaves that to the layout.
        on_bad_row: ``"error"`` stops at a row that does not fit, ``"skip"`` leaves it out and counts it.
        limit: Use the first rows of each split only.

    Raises:
        UserError: If a file is missing, empty or has a bad row, or there is no such verifier.
    """

    def __init__(
        self,
        name: str,
        train: str | Path | Source | list[str | Source] | None = None,
        validation: str | Path | Source | list[str | Source] | None = None,
        test: str | Path | Source | list[str | Source] | None = None,
        verifier: str | None = None,
        columns: dict[str, str] | None = None,
        layout: str | None = None,
        prompt: str | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        limit: int | None = None,
    ) -> None:
        files = {"train": train, "validation": validation, "test": test}
        options = {"verifier": verifier, "columns": columns, "layout": layout, "prompt": prompt}
        super().__init__(self.plan(name, **files, **options, on_bad_row=on_bad_row, limit=limit))
        for split in ("validation", "test", "train"):
            self.rows(split)
        names = sorted({row.verifier for rows in self._rows.values() for row in rows if row.verifier})
        self.markers = prepare(names)

    @classmethod
    def plan(
        cls,
        name: str,
        train: Any = None,
        validation: Any = None,
        test: Any = None,
        on_bad_row: Literal["error", "skip"] = "error",
        limit: int | None = None,
        **options: Any,
    ) -> Plan:
        """What the task with these arguments reads; nothing is read yet."""
        given: dict[Split, Any] = {"train": train, "validation": validation, "test": test}
        if not any(given.values()):
            raise UserError("the task has no files", where=f"task {name}", fix="give train, validation or test")
        if options.get("verifier") is not None:
            find_verifier(options["verifier"])
        sources = {split: [each.completed(**options) for each in as_sources(value)] for split, value in given.items()}
        return Plan(name, {split: found for split, found in sources.items() if found}, on_bad_row, limit)


def prepare(names: Sequence[str]) -> tuple[str, ...]:
    """Check that verifiers can work here, and give the markers of their answer formats.

    Raises:
        UserError: Something that one needs is missing on this machine.
    """
    checks = [find_verifier(name) for name in names]
    for check in checks:
        if ready := getattr(check, "prepare", None):
            ready()
    return tuple(dict.fromkeys(marker for check in checks for marker in getattr(check, "markers", ())))


def with_same_columns(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows with all columns that any of them has, ``None`` where a row says nothing."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    if all(len(row.columns) == len(names) for row in rows):
        return rows
    return tuple(replace(row, columns={name: row.columns.get(name) for name in names}) for row in rows)


def prompt_text(row: Row) -> str:
    """The text that makes two prompts the same, white space aside."""
    return " ".join(" ".join(message["content"].split()) for message in row.messages)
