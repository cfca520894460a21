"""The first step inside the sandbox; its standard input is the connection to the outside."""

from __future__ import annotations

import _socket
import os
import sys

from .limits import end_with_parent
from .wire import receive_in_program


def main() -> None:
    """Read a job and do it."""
    end_with_parent()
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, os.dup(0))
    os.dup2(1, 0)  # Nothing: what the program reads and prints has no part in the protocol.
    job = receive_in_program(connection)
    module, _, function = job["do"].partition(".")
    getattr(sys.modules[f"{__package__}.{module}"], function)(connection, job)
