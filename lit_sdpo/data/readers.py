"""Reads rows and says exactly what is wrong with those that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lit_sdpo.data.layouts import LAYOUTS, find_layout
from lit_sdpo.data.layouts.layout import Layout
from lit_sdpo.data.layouts.rows import FIELDS, Rows
from lit_sdpo.data.records import BadRowError, kind, records
from lit_sdpo.data.source import Source
from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import check_named
from lit_sdpo.rewards.registry import verifier as find_verifier
from lit_sdpo.text import unprintable


@dataclass(frozen=True)
class Entry:
    """One entry of a source: a row, what is wrong with it, or neither where the layout leaves it out.

    Attributes:
        place: Source and line, for messages.
        row: The row.
        problem: Why there is none.
        layout: The layout it was read in; ``None`` before one could be found.
        task: The data set that the row says it is of.
        split: The split that the row says it is of.
        line: The entry as it stands in a text file.
    """

    place: str
    row: Row | None = None
    problem: BadRowError | None = None
    layout: Layout | None = None
    task: str = ""
    split: str = ""
    line: bytes = b""


def scan(source: Source, split: str = "train") -> Iterator[Entry]:
    """Read a source entry by entry; a row that does not fit is handed out as what is wrong with it.

    Args:
        source: Where the rows come from.
        split: ``"train"`` or ``"test"``: what ids say where the rows have none.

    Raises:
        UserError: The source cannot be read at all, or is of no known layout.
    """
    _check_columns(source)
    if source.verifier is not None:
        find_verifier(source.verifier)
    layout: Layout | None = None
    for number, place, value, line in records(source):
        if isinstance(value, BadRowError):
            yield Entry(place, problem=value, line=line)
            continue
        layout = layout or find_layout(source, value, place)
        try:
            fields = layout.read(value, number - 1, split)
            if fields is None:
                yield Entry(place, layout=layout, line=line)
                continue
            task, said = str(fields["task"] or ""), str(fields["split"] or "")
            yield Entry(place, _row(fields, source), layout=layout, task=task, split=said, line=line)
        except BadRowError as problem:
            yield Entry(place, problem=problem, layout=layout, line=line)


def read_rows(
    path: str | Path | Source,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    verifier: str | None = None,
    *,
    split: str = "train",
    limit: int | None = None,
    keep: Callable[[Row], bool] = lambda row: True,
    say: Callable[[Layout], None] = lambda layout: None,
) -> tuple[list[Row], int]:
    r"""Read the rows of a file or Hub data set.

    A row has ``id``, ``messages``, ``ground_truth`` and ``verifier``, or a ``prompt`` and columns for rewards;
    ``extra`` (an object, or JSON text of one) may hold a ``reference_solution``. The row's reference is that solution,
    or the ground truth, in its verifier's form.
    Other layouts (``lit_sdpo.data.layouts``) are recognised from their columns, or named in a ``Source``.

    Args:
        path: The file, or a ``Source``.
        columns: Names of the fields in a file of another layout, ``{"answer": "meta.result", "prompt": "question"}``;
            ``prompt`` is a plain text that becomes one user message, ``system`` one before it. Ids may then be missing:
            file and line stand in.
        on_bad_row: ``"error"`` stops at the first row that does not fit, ``"skip"`` counts such rows.
        verifier: Scores every row, whatever the rows say.
        split: ``"train"`` or ``"test"``: what ids say where the rows have none.
        limit: Stop after that many rows.
        keep: Whether a row is wanted; others are read, checked and left out.
        say: Called once with the layout that the source is read in.

    Returns:
        The rows and the number of rows that were skipped.

    Raises:
        UserError: If the file cannot be read, or with file, line and field if a row does not fit.
    """
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"no such choice {on_bad_row!r}", where="on_bad_row", fix="use error or skip")
    source = path if isinstance(path, Source) else Source(path=str(path))
    source = source.completed(columns=columns, verifier=verifier)
    rows: dict[str, Row] = {}
    seen: set[str] = set()
    layout: Layout | None = None
    skipped = 0
    for entry in scan(source, split):
        problem = entry.problem
        if layout is None and entry.layout is not None:
            layout = entry.layout
            say(layout)
        if entry.row is not None and entry.row.id in seen:
            problem = BadRowError("id", f"{entry.row.id!r} occurs twice", "give every row an id of its own")
        if problem is not None:
            if on_bad_row == "error":
                raise problem.at(entry.place) from problem
            skipped += 1
        elif entry.row is not None:
            seen.add(entry.row.id)
            if keep(entry.row):
                rows[entry.row.id] = entry.row
            if len(rows) == limit:
                break
    return list(rows.values()), skipped


def _check_columns(source: Source) -> None:
    possible = LAYOUTS.values() if source.layout is None else [LAYOUTS.get(source.layout, Rows)]
    known = [field for layout in possible for field in (FIELDS if layout is Rows else layout.needs)]
    if unknown := sorted(set(source.columns or {}) - set(known)):
        raise UserError(
            f"no such field {unknown[0]!r}", where="columns", fix=f"map some of: {', '.join(dict.fromkeys(known))}"
        )


def _row(fields: Mapping[str, Any], source: Source) -> Row:
    columns = source.columns or {}
    judged = fields.get("judged", True)
    name = source.verifier if judged else ""
    if name is None:  # what the row says; only the configuration may name code
        name = _text(fields, "verifier", columns)
        try:
            check_named(name)
        except UserError as error:
            raise BadRowError(columns.get("verifier", "verifier"), error.what, error.fix) from error
    for field in ("task", "split", "family"):
        if unprintable(str(fields.get(field) or "")):
            raise BadRowError(columns.get(field, field), "the text has line breaks or control characters", "mend it")
    truth = _text(fields, "ground_truth", columns) if judged else str(fields["ground_truth"])
    return Row(
        id=_text(fields, "id", columns),
        messages=fields["messages"],
        ground_truth=truth,
        verifier=name,
        reference=_reference(name, truth, fields["extra"]) if judged else None,
        extra=fields["extra"],
        columns=fields["columns"],
        conversational=fields.get("conversational", True),
    )


def _text(fields: Mapping[str, Any], field: str, columns: Mapping[str, str]) -> str:
    value, column = fields[field], columns.get(field, field)
    if value is None:
        fix = f"add it, or name the column that holds it in columns: {{{field}: ...}}"
        if field == "verifier":
            fix += ", or name one for all rows (verifier: math_boxed)"
        raise BadRowError(column, "the field is missing", fix)
    if not isinstance(value, str):
        raise BadRowError(column, f"text is needed, not {kind(value)}", "write the value in quotation marks")
    if not value.strip():
        raise BadRowError(column, "the text is empty", "fill it or leave the row out")
    return value


def _reference(name: str, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
    try:
        write = getattr(find_verifier(name), "reference", None)
    except UserError as error:
        raise BadRowError("verifier", error.what, error.fix) from error
    if write is None:
        return None
    try:
        return write(ground_truth, extra)
    except ValueError as error:
        raise BadRowError(
            "ground_truth", f"verifier {name} cannot use it: {error}", "mend it or leave it out"
        ) from error
