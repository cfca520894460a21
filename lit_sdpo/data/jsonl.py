"""A task whose rows are files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lit_sdpo.data.readers import read_rows
from lit_sdpo.data.task import Row, Split, Task
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.registry import verifier as find_verifier

_log = logging.getLogger(__name__)


class JsonlTask(Task):
    """A task read from JSON lines, everything of it checked when it is made.

    Training rows whose prompt also stands in the validation or test file are left out and counted. A task that is only
    evaluated has no ``train`` file.

    Args:
        name: Appears in every tag and file.
        train: File of the rows to train on, ``.jsonl`` or ``.jsonl.gz``; see ``read_rows`` for the layout.
        validation: File of the rows for every evaluation during training.
        test: File of the rows for the final test.
        verifier: Scores all rows, whatever they say: a contract's name, or the import path of your own.
        columns: Names of the fields in files of another layout.
        on_bad_row: ``"error"`` stops at a row that does not fit, ``"skip"`` leaves it out and counts it.
        limit: Use the first rows of each file only.

    Attributes:
        skipped: Rows left out by split because they did not fit.
        overlap: Training rows left out because they are evaluated.

    Raises:
        UserError: If a file is missing, empty or has a bad row, or there is no such verifier.
    """

    def __init__(
        self,
        name: str,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        verifier: str | None = None,
        columns: Mapping[str, str] | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        limit: int | None = None,
    ) -> None:
        super().__init__(name)
        if limit is not None and limit < 1:
            raise UserError(f"limit is {limit}", where=f"task {name}", fix="give at least 1, or leave it out")
        files: dict[Split, str | Path | None] = {"train": train, "validation": validation, "test": test}
        if not any(files.values()):
            raise UserError("the task has no files", where=f"task {name}", fix="give train, validation or test")
        if verifier is not None:
            find_verifier(verifier)
        rows: dict[Split, list[Row]] = {"train": [], "validation": [], "test": []}
        self.skipped: dict[Split, int] = {}
        for split, path in files.items():
            if path is None:
                continue
            if not Path(path).is_file():
                raise UserError(
                    f"there is no file {path}",
                    where=f"task {name}, argument {split}",
                    fix="give the path of a .jsonl file",
                )
            rows[split], self.skipped[split] = read_rows(path, columns, on_bad_row, verifier)
            if self.skipped[split]:
                _log.warning("task %s: skipped %d bad rows of %s", name, self.skipped[split], path)
            if not rows[split]:
                raise UserError(
                    f"{path} has no rows", where=f"task {name}, argument {split}", fix="give a file with rows"
                )
        evaluated = {_prompt(row) for split in ("validation", "test") for row in rows[split]}
        kept = [row for row in rows["train"] if _prompt(row) not in evaluated]
        self.overlap = len(rows["train"]) - len(kept)
        if self.overlap:
            _log.warning("task %s: left out %d training rows that are evaluated", name, self.overlap)
        if self.overlap and not kept:
            raise UserError("every training row is evaluated too", where=f"task {name}", fix="give separate files")
        rows["train"] = kept
        self._rows = {split: tuple(read[:limit]) for split, read in rows.items()}
        names = {row.verifier for read in self._rows.values() for row in read}
        self._verifiers = {each: find_verifier(each) for each in sorted(names)}
        for check in self._verifiers.values():
            if prepare := getattr(check, "prepare", None):
                prepare()
        found = (marker for check in self._verifiers.values() for marker in getattr(check, "markers", ()))
        self.markers = tuple(dict.fromkeys(found))

    def rows(self, split: Split) -> Sequence[Row]:
        """The rows of one split in the order of the file; none where no file was given."""
        return self._rows[split]

    def verify(self, completion: str, row: Row) -> Verdict:
        """Judge one completion with the row's verifier."""
        return self._verifiers[row.verifier](completion, row)


def _prompt(row: Row) -> str:
    """The text that makes two prompts the same, white space aside."""
    return " ".join(" ".join(message["content"].split()) for message in row.messages)
