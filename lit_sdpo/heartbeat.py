"""A line now and then while something takes long, so that nobody has to guess whether it still runs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from lit_sdpo.text import said

#: Seconds of silence after which a line is due.
SECONDS = 30.0


class Heartbeat:
    """Prints what goes on whenever nothing has been printed for a while, from a thread of its own.

    Args:
        seconds: Silence after which a line is due.
        write: What prints a line; ``None`` writes to the standard error of the moment.
    """

    def __init__(self, seconds: float = SECONDS, write: Callable[[str], None] | None = None) -> None:
        self.seconds, self._write = seconds, write or _to_stderr
        self._text = ""
        self._begun = self._printed = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, text: str) -> None:
        """Begin to watch over something; a watch that is on goes on with the new text."""
        self.now(text)
        if self._thread is None:
            self._ended.clear()
            self.printed()
            self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
            self._thread.start()

    def now(self, text: str) -> None:
        """Say what goes on from here."""
        if text != self._text:
            self._text, self._begun = text, time.monotonic()

    def printed(self) -> None:
        """A line has just been printed by somebody else."""
        self._printed = time.monotonic()

    def due(self) -> bool:
        """Whether it has been silent for long enough."""
        return time.monotonic() - self._printed >= self.seconds

    def stop(self) -> None:
        """Watch no longer."""
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, max(self.seconds / 4, 0.01))):
            if self.due():
                self.printed()
                self._write(f"{self._text}  ({time.monotonic() - self._begun:.0f} s)")


@contextmanager
def still_at(text: str, seconds: float = SECONDS) -> Iterator[Heartbeat]:
    """Say every so often that something is still going on.

    Args:
        text: What goes on; :meth:`Heartbeat.now` changes it.
        seconds: Silence between two lines.
    """
    heartbeat = Heartbeat(seconds)
    heartbeat.start(text)
    try:
        yield heartbeat
    finally:
        heartbeat.stop()


def _to_stderr(line: str) -> None:
    _print(line, sys.stderr)


def to_stdout(line: str) -> None:
    """Print a line at once."""
    _print(line, sys.stdout)


def _print(line: str, stream: TextIO) -> None:
    print(said(line), file=stream, flush=True)
