"""Tasks by name: ``NamedTask("gsm8k")``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from lit_sdpo.data.catalogue import TASKS
from lit_sdpo.data.jsonl import Plan, SourceTask, prepare
from lit_sdpo.data.source import Source, as_sources
from lit_sdpo.data.task import Row, Split
from lit_sdpo.errors import UserError

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


class NamedTask(SourceTask):
    """A task that the package knows by name, with the paper's prompt and the right contract.

    Each split is read when it is first needed: as a probe, a task never reads its training rows. What is not given is
    looked for in ``folder``, else taken from the Hub where the data set is there (extra ``hub``).

    Args:
        task: Name in the catalogue: ``math``, ``science``, ``tooluse``, ``coding``, ``gsm8k``, ``math500``, ... all of
            them are listed in ``docs/data.md``.
        name: Appears in every tag and file; ``None`` takes the task's name.
        train: File, ``Source`` or a list of them to train on; the layout is recognised.
        validation: The same for every evaluation during training.
        test: The same for the final test. Where one of ``validation`` and ``test`` is given, the other has no rows.
        folder: Folder of prepared files, ``<task>_train.jsonl`` and ``<task>_test.jsonl`` in it or one level deeper
            (also ``.jsonl.gz`` or ``.parquet``).
        prompt: How a question is put, with ``{question}`` in it; ``None`` takes the paper's words.
        on_bad_row: ``"error"`` stops at a row that does not fit, ``"skip"`` leaves it out and counts it.
        limit: Use the first rows of each split only.

    Raises:
        UserError: There is no such task.
    """

    def __init__(
        self,
        task: str,
        name: str | None = None,
        train: str | Path | Source | list[str | Source] | None = None,
        validation: str | Path | Source | list[str | Source] | None = None,
        test: str | Path | Source | list[str | Source] | None = None,
        folder: str | Path | None = None,
        prompt: str | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        limit: int | None = None,
    ) -> None:
        files = {"train": train, "validation": validation, "test": test}
        super().__init__(
            self.plan(task, name, **files, folder=folder, prompt=prompt, on_bad_row=on_bad_row, limit=limit)
        )
        self.known = TASKS[task]
        self.markers = prepare([self.known.verifier])

    @classmethod
    def plan(
        cls,
        task: str,
        name: str | None = None,
        train: Any = None,
        validation: Any = None,
        test: Any = None,
        folder: str | Path | None = None,
        prompt: str | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        limit: int | None = None,
    ) -> Plan:
        """What the task with these arguments reads; nothing is read yet."""
        if task not in TASKS:
            close = difflib.get_close_matches(task, TASKS, n=3)
            raise UserError(f"there is no task {task!r}", where="task", fix=f"use one of: {', '.join(close or TASKS)}")
        if folder is not None and not Path(folder).is_dir():
            raise UserError(
                f"there is no folder {str(folder)!r}", where=f"task {task}, argument folder", fix="give a folder"
            )
        given: dict[Split, Any] = {"train": train, "validation": validation, "test": test}
        evaluation, training = list(TASKS[task].evaluation), list(TASKS[task].train)
        if folder is not None:
            evaluation, training = _found(task, "test", Path(folder)), _found(task, "train", Path(folder))
        if given["validation"] is None and given["test"] is None:
            given["validation"] = given["test"] = evaluation
        if given["train"] is None:
            given["train"] = training
        if not any(given.values()):
            where = f"folder {folder}" if folder is not None else "the Hub"
            raise UserError(
                f"{where} has nothing for task {task}",
                where=f"task {task}",
                fix="give the files of train or validation",
            )
        sources = {
            split: [each.completed(prompt=prompt, name=_data_set(task)) for each in as_sources(value)]
            for split, value in given.items()
        }
        return Plan(
            task if name is None else name,
            {split: found for split, found in sources.items() if found},
            on_bad_row,
            limit,
        )

    def _read(self, split: Split) -> tuple[Row, ...]:
        rows = super()._read(split)
        if self.known.mixed and (own := tuple(row for row in rows if row.verifier == self.known.verifier)):
            return own
        if wrong := next((row for row in rows if row.verifier != self.known.verifier), None):
            raise UserError(
                f"row {wrong.id!r} is scored by {wrong.verifier}, but the task has the contract {self.known.verifier}",
                where=self._where(split),
                fix="give files of this task, or use JsonlTask",
            )
        return rows


def _data_set(task: str) -> str | None:
    """The data set's name in ids; the paper's stages leave it to their layouts."""
    return "sciknoweval_chemistry" if task == "science" else None if task in ("math", "tooluse", "coding") else task


def _found(task: str, split: str, folder: Path) -> list[Source]:
    """The prepared files of a split; none where one of its parts is missing."""
    places = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    found: list[Source] = []
    for part in TASKS[task].parts.get(split, () if TASKS[task].parts else (task,)):
        files = (place / f"{part}_{split}{suffix}" for place in places for suffix in _SUFFIXES)
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            return []
        found.append(Source(path=str(file)))
    return found
