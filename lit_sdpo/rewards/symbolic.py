"""Equality of mathematical expressions that cannot hang, crash or exhaust its caller.

math-verify needs the main thread and can be caught in a single huge number; here it runs in a worker process that is
killed when it does not answer.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

_WORKER = Path(__file__).with_name("symbolic_worker.py")


class SymbolicWorker:
    """A worker process that is started on first use, again after each kill, and anew after a fork.

    Args:
        seconds: Wall time for one comparison; the worker is killed after it.
        start_seconds: Wall time for the first answer of a fresh worker, which has to import sympy.
    """

    def __init__(self, seconds: float = 10.0, start_seconds: float = 60.0) -> None:
        self.seconds, self.start_seconds = seconds, start_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = -1

    def equal(self, expected: str, answer: str) -> bool | None:
        """Whether two LaTeX expressions are equal; ``None`` when there was not enough time.

        Raises:
            RuntimeError: If the worker cannot be started.
        """
        with self._lock:
            if self._owner != os.getpid() or self._process is None or self._process.poll() is not None:
                self._start()
            try:
                reply = self._ask([expected, answer], self.seconds)
            except BrokenPipeError:
                reply = None
            if reply is None:
                self.close()
            return reply

    def close(self) -> None:
        """Kill the worker; the next comparison starts another."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _start(self) -> None:
        # -P: the folder of the script holds a file called math.py, which must not stand in for the library's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._owner = os.getpid()
        if self._ask(["1", "1"], self.start_seconds) is not True:
            self.close()
            raise RuntimeError("the symbolic comparison did not start; is math-verify installed?")

    def _ask(self, pair: list[str], seconds: float) -> bool | None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(pair).encode() + b"\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None


_worker = SymbolicWorker()
atexit.register(_worker.close)


@lru_cache(maxsize=8192)
def symbolically_equal(expected: str, answer: str) -> bool | None:
    r"""Whether two LaTeX expressions are equal; ``None`` when there was not enough time to say.

    Example:
        >>> symbolically_equal(r"3\sqrt{13}", r"\sqrt{117}")
        True
    """
    return _worker.equal(expected, answer)
