"""Where rows come from: a file, or a data set of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lit_sdpo.errors import UserError


@dataclass(kw_only=True)
class Source:
    """A file or a Hub data set, and how its rows are to be read.

    Attributes:
        path: A file: JSON lines (``.jsonl``, ``.json``, each also with ``.gz``) or Parquet (``.parquet``).
        hub: Name of a data set for ``datasets.load_dataset``, or a local folder of one (extra ``hub``).
        subset: Configuration of the Hub data set; ``"*"`` reads all of them, one after another.
        split: Split of the Hub data set; ``"train"`` where it is left out.
        revision: Branch, tag or commit of the Hub data set.
        layout: Name of the layout (``docs/data.md``); ``None`` recognises it from the columns.
        columns: Where a field of the layout stands in the rows: ``{"answer": "meta.final_answer"}``. Dots lead into
            objects, numbers into lists.
        prompt: How the question is put, with ``{question}`` in it; ``None`` leaves that to the layout.
        verifier: Scores every row, whatever the rows or the layout say.
        name: Name of the data set in the rows' ids; ``None`` leaves that to the layout.

    Raises:
        UserError: Neither or both of ``path`` and ``hub`` are given, an option is empty, or one has nothing to act on.
    """

    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    layout: str | None = None
    columns: dict[str, str] | None = None
    prompt: str | None = None
    verifier: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.hub is None):
            raise UserError("a source is a file or a Hub data set", where="source", fix="give one of path and hub")
        empty = [each.name for each in fields(self) if getattr(self, each.name) in ("", {})]
        if empty:
            raise UserError(f"{empty[0]} is empty", where=f"source {self}", fix=f"give a {empty[0]}, or leave it out")
        lost = [key for key in ("subset", "split", "revision") if getattr(self, key) is not None]
        if self.path is not None and lost:
            raise UserError(f"{lost[0]} belongs to a Hub data set", where=f"source {self.path}", fix="leave it out")
        if self.prompt is not None and "{question}" not in self.prompt:
            raise UserError(
                "the prompt has no place for the question",
                where=f"source {self}, prompt",
                fix="write {question} where the question belongs",
            )

    def __str__(self) -> str:
        """What messages call it."""
        if self.path is not None:
            return self.path
        parts = [self.subset, f"split {self.split or 'train'}", self.revision]
        return f"{self.hub} ({', '.join(part for part in parts if part)})"

    def completed(
        self,
        *,
        layout: str | None = None,
        columns: Mapping[str, str] | None = None,
        prompt: str | None = None,
        verifier: str | None = None,
        name: str | None = None,
    ) -> Source:
        """The same source with what it leaves open filled in."""
        filled: dict[str, Any] = {
            "layout": layout,
            "columns": columns and dict(columns),
            "prompt": prompt,
            "verifier": verifier,
            "name": name,
        }
        return replace(self, **{key: value for key, value in filled.items() if getattr(self, key) is None})


def as_sources(given: str | Path | Source | Mapping | list | None) -> list[Source]:
    """What a task is given for a split, as a list of sources.

    Example:
        >>> [str(source) for source in as_sources(["a.jsonl", Source(hub="openai/gsm8k", subset="main")])]
        ['a.jsonl', 'openai/gsm8k (main, split train)']
    """
    entries = given if isinstance(given, list) else [] if given is None else [given]
    read = (Source(**entry) if isinstance(entry, Mapping) else entry for entry in entries)
    return [entry if isinstance(entry, Source) else Source(path=str(entry)) for entry in read]
