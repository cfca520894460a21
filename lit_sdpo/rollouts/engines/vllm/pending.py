"""Answers on their way: a thread that talks to the server while the caller does something else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from lit_sdpo.rollouts.engines.vllm.client import Client

Answer = TypeVar("Answer")


class Pending(Generic[Answer]):
    """One call that runs in a thread of its own.

    Args:
        client: What the call asks with; :meth:`drop` interrupts it.
        ask: The call. It does HTTP alone, nothing on a device.

    Attributes:
        seconds: How long the call took, once it is over.
    """

    def __init__(self, client: Client, ask: Callable[[], Answer]) -> None:
        self.seconds = 0.0
        self._client, self._ask = client, ask
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="vllm-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._answer = self._ask()
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        self.seconds = time.monotonic() - began

    def wait(self) -> Answer | None:
        """The answer, ``None`` where it was dropped; raises what the call raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._answer

    def drop(self) -> None:
        """Nobody wants the answer: end what is under way and wait for the thread's end."""
        if self._thread.is_alive():
            self._client.interrupt()
            self._thread.join()
            self._client.ready()
        self._answer = self._error = None
