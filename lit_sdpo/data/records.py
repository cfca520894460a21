"""Reads records one after another from JSON lines, Parquet or the Hub, without holding a file in memory."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError

#: How each extra is installed.
INSTALL = {"pyarrow": "pip install 'lit-sdpo[parquet]'", "datasets": "pip install 'lit-sdpo[hub]'"}
#: How half of a surrogate pair stands in JSON, alone or not.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
FILES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


class BadRowError(Exception):
    """What is wrong with a row, the field, and what would be right."""

    def __init__(self, field: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.field, self.what, self.fix = field, what, fix

    def at(self, place: str) -> UserError:
        """The error for the user."""
        return UserError(self.what, where=place + (f", field {self.field!r}" if self.field else ""), fix=self.fix)


class Record(NamedTuple):
    """One entry of a source.

    Attributes:
        number: Line of a text file, row of anything else, from 1.
        place: The same for messages, such as ``"train.jsonl, line 3"``.
        value: The entry, or why it cannot be read.
        line: The line as it stands in a text file.
    """

    number: int
    place: str
    value: dict[str, Any] | BadRowError
    line: bytes = b""


def records(source: Source) -> Iterator[Record]:
    """All entries of a source in order; blank lines are passed over.

    Raises:
        UserError: The source cannot be read at all.
    """
    if source.hub is not None:
        return _hub(source)
    path = Path(str(source.path))
    if not path.is_file():
        raise UserError("there is no such file", where=str(path), fix=f"give the path of a {', '.join(FILES)} file")
    if path.suffix == ".parquet":
        return _parquet(path)
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in (".jsonl", ".json"):
        raise UserError(f"files of this kind ({suffix or 'no suffix'}) are not read", where=str(path), fix=_known())
    return _lines(path)


def _known() -> str:
    return f"give JSON lines or Parquet, named as one of {', '.join(FILES)}"


def _lines(path: Path) -> Iterator[Record]:
    r"""The lines of a file, cut at ``\n`` alone: other line separators may stand inside of strings."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            first = file.readline().removeprefix(b"\xef\xbb\xbf")
            if first.lstrip().startswith(b"[") and ".json" in path.suffixes:
                yield from _array(path, first + file.read())
                return
            for number, line in enumerate(chain([first], file), start=1):
                if line.strip():
                    yield Record(number, f"{path}, line {number}", _parse(line), line)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"the file cannot be read: {error}", where=str(path)) from error


def _array(path: Path, content: bytes) -> Iterator[Record]:
    """The entries of a file that holds one JSON list."""
    try:
        entries = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the file is not JSON: {error}", where=str(path), fix="write one JSON object a line"
        ) from error
    yield from _plain(str(path), entries)


def _parse(line: bytes) -> dict[str, Any] | BadRowError:
    try:
        return _object(json.loads(line.decode("utf-8")), escaped=_HALF.search(line) is not None)
    except UnicodeDecodeError as error:
        return BadRowError("", f"the line is not UTF-8 text: {error}", "save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRowError("", f"the line is not JSON: {error}", "write one JSON object a line")


def _object(value: Any, escaped: bool = True) -> dict[str, Any] | BadRowError:
    """A record, or why it is none; ``escaped``: it may have halves of surrogate pairs, which are no characters."""
    if not isinstance(value, dict):
        return BadRowError("", f"the line holds {kind(value)}", "write a JSON object")
    if escaped and (field := _broken(value)) is not None:
        return BadRowError(field, "the text holds half of a surrogate pair, which is no character", "write it as UTF-8")
    return value


def _broken(value: Any, place: str = "") -> str | None:
    """The field whose text cannot be written as UTF-8."""
    if isinstance(value, str):
        return place if any("\ud800" <= c <= "\udfff" for c in value) else None
    if isinstance(value, dict):
        pairs = [(key, entry, f"{place}.{key}" if place else str(key)) for key, entry in value.items()]
        if any(_broken(key) is not None for key in value):
            return place
    elif isinstance(value, list):
        pairs = [(n, entry, f"{place}[{n}]") for n, entry in enumerate(value)]
    else:
        return None
    return next((found for _, entry, where in pairs if (found := _broken(entry, where)) is not None), None)


def _parquet(path: Path) -> Iterator[Record]:
    parquet = _extra("pyarrow", "pyarrow.parquet", str(path))
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=256)
        yield from _plain(str(path), (row for batch in batches for row in batch.to_pylist()))
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"the file cannot be read: {error}", where=str(path)) from error


def _hub(source: Source) -> Iterator[Record]:
    datasets = _extra("datasets", "datasets", str(source))
    name = str(source.hub)
    try:
        subsets = datasets.get_dataset_config_names(name) if source.subset == "*" else [source.subset]
        parts = [
            datasets.load_dataset(name, subset, split=source.split or "train", revision=source.revision)
            for subset in subsets
        ]
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise UserError(
            f"the data set cannot be loaded ({str(error).strip().splitlines()[0][:200]})",
            where=str(source),
            fix="check name, subset and split, and the connection; or give a local folder as hub, or a file as path",
        ) from error
    start = 0
    for subset, part in zip(subsets, parts, strict=True):
        yield from _plain(str(source), ({"subset": subset, **row} for row in part), start)
        start += len(part)


def _plain(place: str, entries: Any, start: int = 0) -> Iterator[Record]:
    for number, entry in enumerate(entries, start=start + 1):
        yield Record(number, f"{place}, row {number}", _object(entry))


def _extra(package: str, module: str, where: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{package} is not installed", where=where, fix=INSTALL[package]) from error


def kind(value: Any) -> str:
    """What a value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "an empty list" if value == [] else names.get(type(value), "null" if value is None else type(value).__name__)


def find(record: Any, path: str) -> Any:
    """The value at a dotted path; ``None`` where there is none.

    Example:
        >>> find({"a": {"b": [{"c": 1}]}, "x.y": 2}, "a.b.0.c"), find({"x.y": 2}, "x.y"), find({}, "a.b")
        (1, 2, None)
    """
    if isinstance(record, dict) and path in record:
        return record[path]
    for key in path.split("."):
        if isinstance(record, dict):
            record = record.get(key)
        elif isinstance(record, list) and key.isdecimal() and int(key) < len(record):
            record = record[int(key)]
        else:
            return None
    return record
