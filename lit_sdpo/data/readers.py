"""Reads rows from JSON lines and says exactly what is wrong with those that do not fit."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import verifier as find_verifier

FIELDS = (
    "id",
    "family",
    "task",
    "split",
    "verifier",
    "messages",
    "ground_truth",
    "extra",
    "source",
    "prompt",
    "system",
)
_ROLES = ("system", "user", "assistant", "tool")


class _BadRowError(Exception):
    """What is wrong with a row, the field, and what would be right."""

    def __init__(self, field: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.field, self.what, self.fix = field, what, fix


def read_rows(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    verifier: str | None = None,
) -> tuple[list[Row], int]:
    r"""Read one JSON object a line, plain or ``.gz``.

    A row has ``id``, ``messages``, ``ground_truth`` and ``verifier``; ``extra`` (an object, or JSON text of one) may
    hold a ``reference_solution``. The row's reference is that solution, or the ground truth, in its verifier's form.

    Args:
        path: The file.
        columns: Names of the fields in a file of another layout, ``{"ground_truth": "answer", "prompt": "question"}``;
            ``prompt`` is a plain text that becomes one user message, ``system`` one before it. Ids may then be missing:
            file and line stand in.
        on_bad_row: ``"error"`` stops at the first row that does not fit, ``"skip"`` counts such rows.
        verifier: Scores every row, whatever the rows say.

    Returns:
        The rows and the number of rows that were skipped.

    Raises:
        UserError: If the file cannot be read, or with file, line and field if a row does not fit.
    """
    path = Path(path)
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"no such choice {on_bad_row!r}", where="on_bad_row", fix="use error or skip")
    if unknown := sorted(set(columns or {}) - set(FIELDS)):
        raise UserError(f"no such field {unknown[0]!r}", where="columns", fix=f"map some of: {', '.join(FIELDS)}")
    rows: dict[str, Row] = {}
    skipped = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = _row(_record(line), path, number, columns, verifier)
            if row.id in rows:
                raise _BadRowError("id", f"{row.id!r} occurs twice", "give every row an id of its own")
            rows[row.id] = row
        except _BadRowError as bad:
            if on_bad_row == "error":
                where = f"{path}, line {number}" + (f", field {bad.field!r}" if bad.field else "")
                raise UserError(bad.what, where=where, fix=bad.fix) from bad
            skipped += 1
    return list(rows.values()), skipped


def _lines(path: Path) -> list[bytes]:
    r"""The lines of a file, cut at ``\n`` alone: other line separators may stand inside of strings."""
    if not path.is_file():
        raise UserError("there is no such file", where=str(path), fix="give the path of a .jsonl or .jsonl.gz file")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"the file cannot be read: {error}", where=str(path)) from error
    return content.removeprefix(b"\xef\xbb\xbf").split(b"\n")


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _BadRowError("", f"the line is not UTF-8 text: {error}", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _BadRowError("", f"the line is not JSON: {error}", "write one JSON object a line") from error
    if not isinstance(record, dict):
        raise _BadRowError("", f"the line holds {_kind(record)}", "write one JSON object a line")
    return record


def _row(
    record: Mapping[str, Any], path: Path, number: int, columns: Mapping[str, str] | None, verifier: str | None
) -> Row:
    fields = {field: record.get((columns or {}).get(field, field)) for field in FIELDS}
    if columns and fields["id"] is None:
        fields["id"] = f"{path.name.split('.')[0]}/{number}"
    elif columns and isinstance(fields["id"], int):
        fields["id"] = str(fields["id"])
    name = verifier or _text(fields, "verifier", columns)
    truth = _text(fields, "ground_truth", columns)
    extra = _extra(fields["extra"])
    return Row(
        id=_text(fields, "id", columns),
        messages=_messages(fields, columns),
        ground_truth=truth,
        verifier=name,
        reference=_reference(name, truth, extra),
        extra=extra,
    )


def _text(fields: Mapping[str, Any], field: str, columns: Mapping[str, str] | None) -> str:
    value = fields[field]
    column = (columns or {}).get(field, field)
    if value is None:
        fix = f"add it, or name the column that holds it in columns: {{{field}: ...}}"
        raise _BadRowError(column, "the field is missing", fix)
    if not isinstance(value, str):
        raise _BadRowError(column, f"text is needed, not {_kind(value)}", "write the value in quotation marks")
    if not value.strip():
        raise _BadRowError(column, "the text is empty", "fill it or leave the row out")
    return value


def _messages(fields: Mapping[str, Any], columns: Mapping[str, str] | None) -> Sequence[Mapping[str, str]]:
    messages = fields["messages"]
    if messages is None and fields["prompt"] is not None:
        question = {"role": "user", "content": _text(fields, "prompt", columns)}
        if fields["system"] is None:
            return [question]
        return [{"role": "system", "content": _text(fields, "system", columns)}, question]
    column = (columns or {}).get("messages", "messages")
    fix = f'write [{{"role": "user", "content": "..."}}] with roles among {", ".join(_ROLES)}'
    if messages is None:
        raise _BadRowError(column, "the field is missing", f"{fix}, or name the column of a plain prompt in columns")
    if not isinstance(messages, list) or not messages:
        raise _BadRowError(column, f"a list of messages is needed, not {_kind(messages)}", fix)
    for index, message in enumerate(messages):
        good = isinstance(message, dict) and message.get("role") in _ROLES and isinstance(message.get("content"), str)
        if not good:
            raise _BadRowError(f"{column}[{index}]", "this is not a message with role and content", fix)
    if messages[-1]["role"] == "assistant" or not messages[-1]["content"].strip():
        raise _BadRowError(f"{column}[{len(messages) - 1}]", "the prompt has no question at its end", fix)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _extra(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError as error:
            raise _BadRowError("extra", f"the text is not JSON: {error}", "write a JSON object") from error
    if value is not None and not isinstance(value, dict):
        raise _BadRowError("extra", f"an object is needed, not {_kind(value)}", "write a JSON object")
    return value or {}


def _reference(name: str, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
    write = getattr(find_verifier(name), "reference", None)
    if write is None:
        return None
    try:
        return write(ground_truth, extra)
    except ValueError as error:
        raise _BadRowError(
            "ground_truth", f"verifier {name} cannot use it: {error}", "mend it or leave it out"
        ) from error


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null") if value != [] else "an empty list"
