"""The small files of many runs in one archive, from which a report is made again without the runs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from lit_sdpo.errors import UserError
from lit_sdpo.files import write_atomically
from lit_sdpo.report.events import scalars
from lit_sdpo.report.run import Run

#: What a report reads of a run, and what a reader wants to know of it; samples, weights and pictures are not among it.
FILES = (
    "artifacts.jsonl",
    "changes.csv",
    "config.yaml",
    "curves.jsonl",
    "drift.csv",
    "environment.json",
    "items.jsonl",
    "matrix.json",
    "prompt_distance.csv",
    "response_drift.csv",
    "response_similarity.csv",
    "sweep.json",
    "tasks.csv",
)
#: Where the scalars of a run's event files are, in a file of the same format.
SCALARS = "events.out.tfevents.scalars"
#: How the name of an archive ends.
SUFFIX = ".tar.xz"


def is_archive(path: str | Path) -> bool:
    """Whether a path is that of an archive of runs."""
    return Path(path).is_file() and Path(path).name.endswith(SUFFIX)


def pack(runs: Sequence[Run], path: Path) -> None:
    """Write an archive; the same runs always give the same bytes.

    Args:
        runs: They lie in it by method and seed.
        path: Of the archive.

    Raises:
        UserError: The name has another ending.
    """
    if not path.name.endswith(SUFFIX):
        raise UserError("an archive of runs has another name", where=str(path), fix=f"let it end with {SUFFIX}")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
        for run in runs:
            place = f"{run.method}/seed={run.seed}"
            for name in FILES:
                if (file := run.folder / name).is_file():
                    _add(archive, f"{place}/{name}", file.read_bytes())
            if run.tags:
                _add(archive, f"{place}/{SCALARS}", _scalars(run.folder))
    write_atomically(path, packed.getvalue())


def unpack(path: Path, folder: Path) -> None:
    """Write the runs of an archive into a folder.

    Raises:
        UserError: It is none, or it would write elsewhere.
    """
    try:
        with tarfile.open(path, "r:xz") as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        fix = f"give an archive that `lit-sdpo report RUNS --keep FILE{SUFFIX}` wrote, or folders of runs"
        raise UserError(f"it cannot be unpacked ({error})", where=str(path), fix=fix) from error


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # neither owner nor time: what matters is the content
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _scalars(folder: Path) -> bytes:
    """An event file with one event a step."""
    steps: dict[int, Event] = {}
    for tag, values in scalars(folder).items():
        for step, value in values:
            steps.setdefault(step, Event(step=step)).summary.value.add(tag=tag, simple_value=value)
    written = io.BytesIO()
    writer = RecordWriter(written)
    for step in sorted(steps):
        writer.write(steps[step].SerializeToString())
    return written.getvalue()
