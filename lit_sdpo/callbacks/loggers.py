"""What loggers can do, and numbers, texts, tables and pictures on their way to them.

Nobody is asked for a class: Lightning has two of every logger (``lightning.pytorch``, ``pytorch_lightning``), and
others wrap them. A logger is known by what it offers, which is written down here as protocols, once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakSet

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


class Table(Protocol):
    """A table that is shown: cells where a logger has tables, Markdown where it has texts."""

    def cells(self) -> list[list[str]]:
        """Header and rows."""

    def markdown(self) -> str:
        """A Markdown table."""


class Display(Protocol):
    """Where texts, tables and pictures of a run can be looked at."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Show a text."""

    def table(self, tag: str, table: Table, step: int) -> None:
        """Show a table."""

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """Show a picture."""


@runtime_checkable
class EventWriter(Protocol):
    """TensorBoard's ``SummaryWriter``, which Lightning's logger has as ``experiment``."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        """Markdown."""

    def add_figure(self, tag: str, figure: Figure, global_step: int | None = None) -> None:
        """A figure of matplotlib."""

    def add_custom_scalars(self, layout: Mapping[str, Any]) -> None:
        """The page of charts."""

    def flush(self) -> None:
        """Bring everything to the disk."""

    def _get_file_writer(self) -> Any:
        """What takes single events."""


@runtime_checkable
class RowWriter(Protocol):
    """What writes ``metrics.csv``; the ``experiment`` of Lightning's ``CSVLogger``."""

    #: Columns so far.
    metrics_keys: list[str]
    #: The file.
    metrics_file_path: str


@runtime_checkable
class MediaLogger(Protocol):
    """A logger that shows pictures, texts and tables itself, as Lightning's ``WandbLogger`` does."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Pictures."""

    def log_text(self, key: str, columns: list[str], data: list[list[str]], step: int | None = None) -> None:
        """Texts, in a table."""

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        """A table."""


@runtime_checkable
class ArtifactClient(Protocol):
    """``MlflowClient``: files and pictures of a run, whose name the logger knows as ``run_id``."""

    def log_image(self, run_id: str, image: Any, *, key: str, step: int) -> None:
        """A picture among those of other steps."""

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        """A file."""

    def log_table(self, run_id: str, data: dict[str, Any], artifact_file: str) -> None:
        """Rows, which are added to those that are there."""


def _experiment(logger: Any) -> object:
    """What a logger writes with; ``None`` on processes that do not log.

    Lightning puts something there that has every attribute one asks for, and so seems to be any kind of writer.
    """
    found = getattr(logger, "experiment", None)
    return None if hasattr(found, "nobody has this") else found


def event_writer(logger: Any) -> EventWriter | None:
    """TensorBoard's writer of a logger that has one."""
    writer = _experiment(logger)
    return writer if isinstance(writer, EventWriter) else None


def row_writer(logger: Any) -> RowWriter | None:
    """The writer of ``metrics.csv`` of a logger that has one."""
    writer = _experiment(logger)
    return writer if isinstance(writer, RowWriter) else None


def display(logger: Any) -> Display | None:
    """How a logger shows texts, tables and pictures; ``None`` of one that only takes numbers."""
    if isinstance(logger, MediaLogger):
        return _Media(logger)
    experiment, run_id = _experiment(logger), getattr(logger, "run_id", None)
    if isinstance(experiment, EventWriter):
        return _Events(experiment)
    if isinstance(experiment, ArtifactClient) and run_id is not None:
        return _Artifacts(experiment, str(run_id))
    return None


def log_numbers(trainer: pl.Trainer, numbers: Mapping[str, float], step: int) -> None:
    """Give numbers to every logger of a run."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(numbers), step=step)


def log_text(trainer: pl.Trainer, tag: str, text: str, step: int) -> None:
    """Show a text, which may be Markdown, in every logger that can."""
    for shown in _displays(trainer):
        shown.text(tag, text, step)


def log_table(trainer: pl.Trainer, tag: str, table: Table, step: int) -> None:
    """Show a table in every logger that can."""
    for shown in _displays(trainer):
        shown.table(tag, table, step)


def log_figure(trainer: pl.Trainer, tag: str, draw: Callable[[], Figure], step: int) -> None:
    """Show a figure of matplotlib in every logger that can; it is drawn if there is one, and matplotlib."""
    displays = list(_displays(trainer))
    if displays and _can_draw():
        figure = draw()
        for shown in displays:
            shown.figure(tag, figure, step)


def _can_draw() -> bool:
    return find_spec("matplotlib") is not None


#: Trainers whose user was told.
_told: WeakSet[pl.Trainer] = WeakSet()


def say_what_is_not_shown(trainer: pl.Trainer) -> None:
    """Name the loggers that show numbers alone, once a run; for ``setup`` of callbacks that show more."""
    if not trainer.is_global_zero or trainer in _told or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    _told.add(trainer)
    if not _can_draw() and next(_displays(trainer), None) is not None:
        rank_zero_info("matplotlib is not installed: callbacks show tables and texts, but no pictures.")
    if silent := [type(logger).__name__ for logger in trainer.loggers if display(logger) is None]:
        rank_zero_info(
            f"{' and '.join(dict.fromkeys(silent))} takes numbers only: pictures, tables and texts of callbacks are in"
            " the files of the run folder, and in the loggers of TensorBoard, W&B and MLflow."
        )


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image, uint8 [height, width, 3]."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _displays(trainer: pl.Trainer) -> Iterator[Display]:
    if trainer.is_global_zero:
        yield from (shown for logger in trainer.loggers if (shown := display(logger)) is not None)


class _Events:
    """TensorBoard: tables are Markdown."""

    def __init__(self, writer: EventWriter) -> None:
        self.writer = writer

    def text(self, tag: str, text: str, step: int) -> None:
        self.writer.add_text(tag, text, step)

    def table(self, tag: str, table: Table, step: int) -> None:
        self.writer.add_text(tag, table.markdown(), step)

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        self.writer.add_figure(tag, figure, step)


class _Media:
    """W&B: texts are cells; a table has a key of its own, as a key there is of one kind."""

    def __init__(self, logger: MediaLogger) -> None:
        self.logger = logger

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.log_text(tag, columns=["text"], data=[[text]], step=step)

    def table(self, tag: str, table: Table, step: int) -> None:
        header, *rows = table.cells()
        self.logger.log_table(f"{tag}/table", columns=header, data=rows, step=step)

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        self.logger.log_image(tag, [pixels(figure)], step=step)


class _Artifacts:
    """MLflow: a file per text and step, a growing file per table, pictures by step."""

    def __init__(self, client: ArtifactClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def text(self, tag: str, text: str, step: int) -> None:
        self.client.log_text(self.run_id, text, f"{_path(tag)}/step={step:07d}.md")

    def table(self, tag: str, table: Table, step: int) -> None:
        header, *rows = table.cells()
        columns: dict[str, Sequence[Any]] = {"global_step": [step] * len(rows)}
        columns |= {name: [row[k] for row in rows] for k, name in enumerate(header)}
        self.client.log_table(self.run_id, data=columns, artifact_file=f"{_path(tag)}.json")

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        self.client.log_image(self.run_id, pixels(figure), key=_path(tag), step=step)


def _path(tag: str) -> str:
    """A tag as MLflow's rules for paths have it."""
    return re.sub(r"[^\w./ -]|\.\.", "_", tag, flags=re.ASCII)
