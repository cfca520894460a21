"""Lends sandboxed processes that run tests, far from the programs under test."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from lit_sdpo.rewards.cell.wire import receive
from lit_sdpo.rewards.sandbox import START_SECONDS, Sandbox

_GRACE_SECONDS = 5.0


class Examiners:
    """Processes that run tests; one is kept for the next program, as starting it takes longer than a test.

    Args:
        sandbox: Where they run; each in one of its own.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._idle: list[tuple[socket.socket, ExitStack]] = []
        self._owner = os.getpid()

    def examine(self, program: socket.socket, job: Mapping[str, Any], seconds: float) -> Iterator[str]:
        """What is wrong with each test of ``job``, empty where nothing is, up to the first that did not end.

        Args:
            program: Connection to the program.
            job: The ``tests`` and the name of the ``function`` under test; see ``cell.examiner``.
            seconds: Time for each test, counted from the start of the program.
        """
        connection, closing = self._take()
        clean = False
        try:
            program.settimeout(None)  # A property of the connection, which the examiner shares.
            body = json.dumps(job).encode()
            socket.send_fds(connection, [len(body).to_bytes(8, "big")], [program.fileno()])
            connection.sendall(body)
            connection.settimeout(START_SECONDS)
            while True:
                try:
                    fault = receive(connection)
                except TimeoutError:
                    yield "the time limit was exceeded."
                    # Without its program the examiner comes to an end of its own, unless the test itself hangs.
                    program.shutdown(socket.SHUT_RDWR)
                    connection.settimeout(_GRACE_SECONDS)
                    while receive(connection) is not None:
                        pass
                    fault = None
                if fault is None:
                    clean = True
                    return
                connection.settimeout(seconds)
                if fault != "started":
                    yield fault
        except (OSError, EOFError, ValueError):
            return
        finally:
            if clean:
                self._idle.append((connection, closing))
            else:
                closing.close()

    def close(self) -> None:
        """End the idle processes."""
        idle, self._idle = self._idle, []
        if self._owner == os.getpid():
            for _, closing in idle:
                closing.close()

    def _take(self) -> tuple[socket.socket, ExitStack]:
        if self._owner != os.getpid():  # After a fork the processes belong to the other side.
            self._idle, self._owner = [], os.getpid()
        if self._idle:
            return self._idle.pop()
        closing = ExitStack()
        connection = closing.enter_context(self.sandbox.open({"do": "examiner.serve"}, cpu_seconds=600))
        receive(connection)  # "ready"
        return connection, closing
