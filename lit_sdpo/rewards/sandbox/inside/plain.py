"""Runs tests in one process with the program, as everybody does: a second opinion that proves nothing by itself."""

from __future__ import annotations

import builtins
import io
import sys

from .limits import confine
from .wire import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any


def serve(connection: _socket.socket, job: dict[str, Any]) -> None:
    """Run the program and its tests, and say for each whether it went through."""
    module = type(sys)("program")
    sys.modules["program"] = module
    own = dict(vars(builtins))
    sys.stdout = io.StringIO()
    confine(job["limits"])
    send(connection, "started")
    try:
        exec(compile(job["program"], "<program>", "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        return
    space = vars(module)
    hidden = {name for name in space if name in own and name != job["function"] and not name.startswith("__")}
    for test in job["tests"]:
        if hidden:  # Python's own names mean Python's own in a test.
            space = {name: value for name, value in vars(module).items() if name not in hidden}
        space["__builtins__"] = own
        try:
            for name in job["modules"]:
                space.setdefault(name, __import__(name))
            exec(compile(test, "<test>", "exec", dont_inherit=True), space)
            went_through = True
        except BaseException:
            went_through = False
        send(connection, went_through)
