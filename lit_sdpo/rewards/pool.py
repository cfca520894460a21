"""Runs verifiers that can hang or crash in processes that can be killed."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict, failed
from lit_sdpo.rewards.contract import Contract, unanswered
from lit_sdpo.rewards.thinking import final_text

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row, Task

_log = logging.getLogger(__name__)
_WORKER = Path(__file__).with_name("worker.py")
_START_SECONDS = 120.0  # Interpreter and imports on a busy machine; not the verifier's time.


class HungError(Exception):
    """A verifier did not answer in time."""


class CrashedError(Exception):
    """A verifier's process is gone."""


_lifelines: dict[int, tuple[int, int]] = {}


def _lifeline() -> int:
    """The reading end of a pipe that this process holds open as long as it lives, however it ends.

    A death signal of the kernel would come when the thread ends that has started a worker, which may be early.
    """
    if os.getpid() not in _lifelines:  # After a fork the writing end belongs to the other side.
        for _, writing in _lifelines.values():
            os.close(writing)
        _lifelines.clear()
        _lifelines[os.getpid()] = os.pipe()
    return _lifelines[os.getpid()][0]


class _Worker:
    """One process that scores one completion at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # -P: the folder of the script holds a file called math.py, which must not stand in for the library's.
            life = _lifeline()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER), str(life)],
                stdin=theirs.fileno(),
                start_new_session=True,
                pass_fds=[life],
            )
            self._connection = Connection(ours.detach())
        self._loaded: set[str] = set()
        self._connection.send([path or os.getcwd() for path in sys.path])

    def score(self, name: str, completion: str, row: Row, seconds: float) -> tuple[Verdict, str]:
        """The verdict, and the trace of what the verifier raised."""
        try:
            self._connection.send((name, completion, row))
            if name not in self._loaded:
                self._receive(_START_SECONDS)
                self._loaded.add(name)
            return self._receive(seconds)
        except (EOFError, OSError) as error:
            raise CrashedError from error

    def _receive(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise HungError
        answer = self._connection.recv()
        if isinstance(answer, UserError):
            raise answer
        return answer

    def kill(self) -> None:
        """Kill the process and all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()


class WorkerPool:
    """Scores completions in worker processes, as many at a time as threads ask, up to ``size``.

    A worker that does not answer in time, counted from the start of the scoring, is killed with its process group and
    replaced; so is one that crashes. Nothing else waits for it.

    Args:
        size: Number of processes; by default one for each processor that this process may use.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or len(os.sched_getaffinity(0))
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._idle: list[_Worker] = []
        self._free = threading.BoundedSemaphore(self.size)
        self._told: set[str] = set()

    def score(self, name: str, completion: str, row: Row, seconds: float) -> Verdict:
        """The verdict of the verifier ``name``.

        Raises:
            HungError: If it did not answer within ``seconds``.
            CrashedError: If its process died.
            UserError: If something is missing on this machine.
        """
        if self._owner != os.getpid():  # After a fork the workers belong to the other side.
            self._reset()
        with self._free:
            worker = self._idle.pop() if self._idle else _Worker()
            try:
                verdict, trace = worker.score(name, completion, row, seconds)
            except UserError:
                self._idle.append(worker)
                raise
            except BaseException:
                worker.kill()
                raise
            self._idle.append(worker)
        if trace and name not in self._told:
            self._told.add(name)
            _log.warning("The verifier %s failed on row %s and abstains:\n%s", name, row.id, trace)
        return verdict

    def close(self) -> None:
        """Kill the idle workers; the next completion starts others."""
        if self._owner == os.getpid():
            while self._idle:
                self._idle.pop().kill()


POOL = WorkerPool()
atexit.register(POOL.close)


class Pooled:
    """A verifier that is run by the pool; all else about it is that of the verifier itself.

    Args:
        name: The name of a contract, or an import path.
        verifier: The verifier.
        pool: Where it runs.
    """

    def __init__(self, name: str, verifier: Any, pool: WorkerPool = POOL) -> None:
        self.name, self.verifier, self.pool = name, verifier, pool

    def __call__(self, completion: str, row: Row) -> Verdict:
        """Judge ``completion`` within the verifier's time."""
        if (text := final_text(completion)) is None:
            return unanswered(completion, _form(self.verifier))
        if isinstance(self.verifier, Contract):
            with contextlib.suppress(Exception):  # Where it fails, the worker finds out why.
                if (verdict := self.verifier.at_once(text, row.ground_truth)) is not None:
                    return verdict
        limit = getattr(self.verifier, "seconds", 60.0)
        unfinished = getattr(self.verifier, "unfinished", failed)
        try:
            return self.pool.score(self.name, completion, row, limit(row) if callable(limit) else limit)
        except HungError:
            return unfinished("timed_out")
        except CrashedError:
            return unfinished("crashed")

    def __getattr__(self, name: str) -> Any:
        """What the verifier has."""
        if name == "verifier":
            raise AttributeError(name)
        return getattr(self.verifier, name)


def verify_all(task: Task, completions: Sequence[str], rows: Sequence[Row]) -> list[Verdict]:
    """Verdicts of a task on many completions, in order; several at a time where the rows' verifiers run in the pool.

    Thinking that never ended is no answer, and no verifier is asked about it.
    """
    found = {name: _found(name) for name in {row.verifier for row in rows}}

    def verdict(completion: str, row: Row) -> Verdict:
        if not task.judges(row):
            return Verdict(None)
        if final_text(completion) is None:
            return unanswered(completion, _form(found[row.verifier]))
        return task.verify(completion, row)

    if not any(isinstance(each, Pooled) for each in found.values()):
        return [verdict(completion, row) for completion, row in zip(completions, rows, strict=True)]
    with ThreadPoolExecutor(POOL.size) as threads:
        return list(threads.map(verdict, completions, rows))


def _found(name: str) -> Any:
    """The verifier of that name; a task that verifies by itself may call its rows' verifier what it likes."""
    from lit_sdpo.rewards.registry import verifier

    try:
        return verifier(name) if name else None
    except UserError:
        return None


def _form(verifier: Any) -> str:
    """What a verifier says of the form of an answer."""
    form = getattr(verifier, "form", "")
    return form if isinstance(form, str) else ""
