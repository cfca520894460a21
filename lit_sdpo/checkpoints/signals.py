"""Signals: what arrives between two instructions waits for the end of the step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

ENDING = (signal.SIGTERM, signal.SIGINT)
#: Not on every system.
NOTICE: signal.Signals | None = getattr(signal, "SIGUSR1", None)


class Signals:
    """Notes what this process was asked to do.

    The first SIGTERM or SIGINT asks to save and leave at the end of the step, the second one leaves at once
    (``SystemExit``), the third without any tidying up. A process that is leaving already takes no notice of the second.
    SIGUSR1 asks to save and go on; where something else already answers it, as with a job scheduler's own handler, it
    is left alone.
    """

    def __init__(self) -> None:
        self.ending = 0
        self.notices = 0
        self._count = 0
        self._leaving = False
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What a process that a signal has ended leaves with: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + (self.ending or signal.SIGTERM)

    def listen(self, *, terminated: bool = False) -> None:
        """Answer signals from now on; possible in the main thread only.

        Args:
            terminated: A SIGTERM has been there already, before anybody listened.
        """
        self.ending, self._count, self.notices = (signal.SIGTERM, 1, 0) if terminated else (0, 0, 0)
        self._leaving = False
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING:
            self._before[number] = signal.signal(number, self._end)
        if NOTICE is not None and signal.getsignal(NOTICE) in (signal.SIG_DFL, None):
            self._before[NOTICE] = signal.signal(NOTICE, self._notice)

    def leave(self) -> None:
        """The process is ending because of a signal: go on answering, so that one more does not kill it half-way."""
        self._leaving = True

    def stop_listening(self) -> None:
        """Give the signals back to whoever answered them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.ending = number
        if self._count > 2:
            os._exit(self.exit_code)
        if self._leaving:
            return
        if self._count == 2:
            self._leaving = True
            raise SystemExit(self.exit_code)
        name = signal.Signals(number).name
        rank_zero_info(f"{name}: the run saves and ends after this step; once more ends it now, without saving.")

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.notices += 1
