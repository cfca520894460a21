"""Scores completions in a process that can be killed; started by its path.

Its argument is the reading end of a pipe that is closed when the process that has started it ends, and it ends then.
Its standard input is a connection. The first message is where modules are found, each further one the name of a
verifier, a completion and its row. The answer is a verdict; before the first verdict of a verifier comes ``None``, for
its time does not begin before it is loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import sys
import threading
import traceback
from importlib.util import find_spec, module_from_spec
from multiprocessing.connection import Connection
from typing import Any

PACKAGE = "lit_sdpo"


def without_torch() -> None:
    """Let parts of the package be imported alone; what its front page offers is loaded when asked for."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.loader is not None
    package, loader = module_from_spec(spec), spec.loader

    def first_use(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        del vars(package)["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    vars(package)["__getattr__"] = first_use
    sys.modules[PACKAGE] = package


def score(check: Any, completion: str, row: Any) -> tuple[Any, str]:
    """A verdict, and the trace of what the verifier raised."""
    from lit_sdpo.errors import UserError
    from lit_sdpo.rewards.base import Verdict, failed

    memory, limit = getattr(check, "memory", None), resource.getrlimit(resource.RLIMIT_AS)
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, limit[1]))
    try:
        verdict = check(completion, row)
        if not isinstance(verdict, Verdict) or not (verdict.score is None or 0 <= verdict.score <= 1):
            raise TypeError(f"a verifier has to return a Verdict with a score from 0 to 1 or None, not {verdict!r}")
    except UserError:
        raise
    except Exception as error:
        return failed(type(error).__name__), traceback.format_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    return verdict, ""


def end_with(life: int) -> None:
    """End this process and its group when the other end of a pipe is closed, whatever a verifier is doing then."""
    if hasattr(fcntl, "F_SETSIG"):  # Linux: the kernel does it, even inside a C function that lets no thread run
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            _die_at_the_end(life)  # it was closed before
    else:
        threading.Thread(target=_die_at_the_end, args=(life,), daemon=True).start()


def _die_at_the_end(life: int) -> None:
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Answer until the other side is gone."""
    end_with(int(sys.argv[1]))
    connection = Connection(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:] = connection.recv()
    without_torch()
    from lit_sdpo.errors import UserError
    from lit_sdpo.rewards.registry import in_process

    loaded: dict[str, Any] = {}
    while True:
        try:
            name, completion, row = connection.recv()
        except EOFError:
            return
        try:
            if name not in loaded:
                loaded[name] = in_process(name)
                if load := getattr(loaded[name], "load", None):
                    load()
                connection.send(None)
            connection.send(score(loaded[name], completion, row))
        except UserError as error:
            connection.send(error)


if __name__ == "__main__":
    main()
