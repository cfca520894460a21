"""Writes a training file again without the rows that are evaluated."""

from __future__ import annotations

import gzip
import os
from collections.abc import Collection
from pathlib import Path

from lit_sdpo.data.readers import scan
from lit_sdpo.data.records import INSTALL
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError


def check_target(sources: list[Source], target: Path) -> Source:
    """The one training file that can be written again.

    Raises:
        UserError: There is not exactly one, or the target exists or is of another kind.
    """
    where = f"--write-deduplicated {target}"
    if len(sources) != 1 or sources[0].path is None:
        found = ", ".join(map(str, sources)) or "none"
        raise UserError(
            f"one training file is needed, not: {found}", where=where, fix="check one training file at a time"
        )
    if target.exists():
        raise UserError("the file exists", where=where, fix="give the name of a new file")
    if (target.suffix == ".parquet") != (Path(sources[0].path).suffix == ".parquet"):
        raise UserError("the kind of file would change", where=where, fix=f"end the name as that of {sources[0].path}")
    return sources[0]


def write(source: Source, target: Path, left_out: Collection[str]) -> int:
    """Write the entries of a file but those rows; lines that do not fit stay, as they stand.

    Args:
        source: The training file.
        target: The new file; ``.gz`` compresses it. It appears when it is complete.
        left_out: Places of the rows that are left out, as ``scan`` names them.

    Returns:
        Number of entries written.
    """
    part = target.with_name(f".{target.name}.part")
    places: list[int] = []
    count = 0
    try:
        with gzip.open(part, "wb") if target.suffix == ".gz" else part.open("wb") as file:
            for index, entry in enumerate(scan(source)):
                if entry.place not in left_out:
                    count += 1
                    places.append(index)
                    file.write(entry.line.rstrip(b"\r\n") + b"\n")
        if target.suffix == ".parquet":
            _write_parquet(str(source.path), part, places)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_parquet(path: str, part: Path, places: list[int]) -> None:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError("pyarrow is not installed", where=path, fix=INSTALL["pyarrow"]) from error
    parquet.write_table(parquet.read_table(path).take(places), part)
