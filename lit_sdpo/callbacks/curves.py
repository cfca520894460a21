"""Curves through a resume: what loggers have to hold when a checkpoint is written, and what is left of it afterwards.

Values of the step that a checkpoint is about reach the loggers only after the checkpoint; a process that is killed in
between would leave a hole in every curve. They are kept in the checkpoint too.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from tensorboard.compat.proto.event_pb2 import Event

from lit_sdpo.callbacks.loggers import RowWriter, event_writer, row_writer
from lit_sdpo.callbacks.weights.base import folders_above
from lit_sdpo.files import write_atomically
from lit_sdpo.folders import run_folder
from lit_sdpo.report.events import events

#: The rows of a CSV logger, under a name that the next process does not delete.
KEPT = "metrics.kept.csv"


def flush(trainer: pl.Trainer) -> None:
    """Bring everything that was logged to the disk."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        logger.save()
        if (writer := event_writer(logger)) is not None:
            writer.flush()
        if (table := row_writer(logger)) is not None:
            _keep(_folder(table))


def entry(trainer: pl.Trainer) -> dict[str, Any]:
    """What a checkpoint keeps: how long the tables are, and what this step has measured but not logged yet."""
    tables = [_rows(_folder(table) / KEPT)[1] for table in filter(None, map(row_writer, trainer.loggers))]
    connector = trainer._logger_connector
    pending: dict[str, float | int] = {}
    if trainer.training and connector.should_update_logs and connector._first_loop_iter is not None:
        pending = {name: float(value) for name, value in connector.metrics["log"].items()}
        pending["epoch"] = trainer.current_epoch
    return {"tables": [len(rows) for rows in tables], "step": trainer.global_step - 1, "pending": pending}


def go_on(trainer: pl.Trainer, saved: Mapping[str, Any] | None) -> None:
    """In the folder of the checkpoint: take back what was logged after it, and log what was still to be logged.

    Args:
        trainer: Before its first step.
        saved: What the checkpoint has kept; ``None`` where it is of an older release.
    """
    folder = run_folder(trainer)
    if saved is None or folder is None or not trainer.is_global_zero:
        return
    if folder.resolve() not in map(Path.resolve, folders_above(trainer.ckpt_path)):
        return
    step, pending = saved["step"], saved["pending"]
    lengths = iter(saved["tables"])
    for logger in trainer.loggers:
        if (table := row_writer(logger)) is not None:
            rows = _restore(table, next(lengths, 0), step)
            known = {int(row["step"]) for row in rows if any(row.get(name) for name in pending if name != "epoch")}
        elif event_writer(logger) is not None and logger.log_dir is not None:
            known = {event.step for event in events(logger.log_dir) if _logs(event, pending)}
        else:
            continue  # what it has is not ours to read
        if pending and step not in known:
            logger.log_metrics(pending, step)


def _logs(event: Event, names: Mapping[str, float]) -> bool:
    return any(value.tag in names and value.tag != "epoch" for value in event.summary.value)


def _keep(folder: Path) -> None:
    """Give the rows a second name; the same file where the file system can do that."""
    rows, kept = folder / "metrics.csv", folder / KEPT
    if not rows.exists() or (kept.exists() and kept.samefile(rows)):
        return
    new = kept.with_suffix(".new")
    new.unlink(missing_ok=True)
    try:
        os.link(rows, new)
    except OSError:
        shutil.copyfile(rows, new)
    new.replace(kept)


def _folder(table: RowWriter) -> Path:
    return Path(table.metrics_file_path).parent


def _restore(writer: RowWriter, length: int, step: int) -> list[dict[str, str]]:
    """Write the rows up to a checkpoint back, for the logger to add to them, and return them."""
    folder = _folder(writer)
    header, rows = _rows(folder / KEPT)
    # Rows of the checkpoint's own step were logged just after it.
    rows = [*rows[:length], *(row for row in rows[length:] if int(row["step"]) <= step)]
    if header:
        text = io.StringIO()
        table = csv.DictWriter(text, header, lineterminator="\r\n")
        table.writeheader()
        table.writerows(rows)
        write_atomically(folder / "metrics.csv", text.getvalue())
        writer.metrics_keys = list(header)
    return rows


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a table; a last row that was cut is left out."""
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        rows = [row for row in table if None not in row.values() and row.get("step")]
    return list(table.fieldnames or ()), rows
