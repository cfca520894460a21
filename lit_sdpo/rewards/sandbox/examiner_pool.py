"""Lends sandboxed processes that run tests, far from the programs under test."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from lit_sdpo.rewards.sandbox.inside.examiner import DOUBTED, SURE
from lit_sdpo.rewards.sandbox.inside.wire import receive
from lit_sdpo.rewards.sandbox.sandbox import START_SECONDS, Sandbox

_GRACE_SECONDS = 5.0
#: What a test may take beside the program: values on their way, and what the test itself computes.
_TEST_SECONDS = 90.0


class Report(NamedTuple):
    """What came of one test.

    Attributes:
        fault: What is wrong, empty where nothing is.
        standing: How far that can be trusted; see ``inside.examiner``.
        reason: What makes it doubtful.
    """

    fault: str
    standing: str = SURE
    reason: str = ""


class Examiners:
    """Processes that run tests; one is kept for the next program, as starting it takes longer than a test.

    Args:
        sandbox: Where they run; each in one of its own.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._idle: list[tuple[socket.socket, ExitStack]] = []
        self._owner = os.getpid()

    def examine(self, program: socket.socket, job: Mapping[str, Any], seconds: float) -> Iterator[Report]:
        """A report on each test of ``job``, up to the first that did not end.

        Args:
            program: Connection to the program.
            job: The ``tests`` and the name of the ``function`` under test; see ``inside.examiner``.
            seconds: Time of the program for each test, counted from its start.
        """
        connection, closing = self._given(program, {**job, "seconds": seconds})
        clean = False
        try:
            while True:
                try:
                    report = receive(connection)
                except TimeoutError:
                    yield Report("the time limit was exceeded.", DOUBTED, "the test takes too long")
                    # Without its program the examiner comes to an end of its own, unless the test itself hangs.
                    program.shutdown(socket.SHUT_RDWR)
                    connection.settimeout(_GRACE_SECONDS)
                    while receive(connection) is not None:
                        pass
                    report = None
                if report is None:
                    clean = True
                    return
                connection.settimeout(2 * seconds + _TEST_SECONDS)
                if report != "started":
                    yield Report(*report)
        except (OSError, EOFError, ValueError):
            return
        finally:
            if clean:
                self._idle.append((connection, closing))
            else:
                closing.close()

    def _given(self, program: socket.socket, job: Mapping[str, Any]) -> tuple[socket.socket, ExitStack]:
        """An examiner that has taken the job. A kept one may be gone, as it ends with the thread that started it."""
        body = json.dumps(job).encode()
        program.settimeout(None)  # A property of the connection, which the examiner shares.
        while True:
            kept = bool(self._idle)
            connection, closing = self._take()
            connection.settimeout(START_SECONDS)
            try:
                socket.send_fds(connection, [len(body).to_bytes(8, "big")], [program.fileno()])
                connection.sendall(body)
                if connection.recv(1, socket.MSG_PEEK):
                    return connection, closing
            except TimeoutError:
                return connection, closing
            except OSError:
                pass
            closing.close()
            if not kept:
                raise OSError("the process that runs the tests does not start")

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
        connection = closing.enter_context(self.sandbox.open({"do": "examiner.serve"}, cpu_seconds=600)).connection
        receive(connection)  # "ready"
        return connection, closing
