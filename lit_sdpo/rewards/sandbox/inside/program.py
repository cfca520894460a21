"""Runs a model's program: as a script on given inputs, or as functions that the other side calls."""

from __future__ import annotations

import _sitebuiltins
import atexit
import binascii
import builtins
import os
import sys

from .limits import confine, readable_by_others
from .objects import ProgramPeer
from .wire import receive_in_program, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from types import ModuleType
    from typing import Any


def serve(connection: _socket.socket, job: dict[str, Any]) -> None:
    """Run the program when asked to, then do what the other side calls until it closes the connection."""
    module = _module("program")

    def run() -> None:
        if isinstance(code, BaseException):
            raise code
        exec(code, module.__dict__)

    peer = ProgramPeer(connection, module, run)
    confine(job["limits"])
    try:
        code: Any = compile(job["program"], "<program>", "exec", dont_inherit=True)
    except BaseException as error:
        code = error
    send(connection, "started")
    try:
        while True:
            peer.answer(receive_in_program(connection))
    except (EOFError, OSError):
        os._exit(0)


def run_scripts(connection: _socket.socket, job: dict[str, Any]) -> None:
    """Run the program once for each input that comes, each time in a fresh process, and send what it wrote."""
    longest = job["longest"]
    readable_by_others(False)
    while True:
        try:
            given = receive_in_program(connection)
        except EOFError:
            return
        source, output, errors = (os.memfd_create(name) for name in ("input", "output", "errors"))
        os.write(source, given.encode())
        os.lseek(source, 0, os.SEEK_SET)
        send(connection, "started")
        child = os.fork()
        if child == 0:
            for standard, memory in enumerate((source, output, errors)):
                os.dup2(memory, standard)
            os.closerange(3, 256)
            readable_by_others(True)
            _script(job)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        written = os.pread(output, longest + 1, 0)
        complaints = os.pread(errors, 4096, max(0, os.fstat(errors).st_size - 4096))
        for memory in (source, output, errors):
            os.close(memory)
        send(
            connection,
            [code, binascii.b2a_base64(written, newline=False).decode(), complaints.decode(errors="replace")],
        )


def _script(job: dict[str, Any]) -> None:
    code = 1
    try:
        module = _module("__main__")
        confine(job["limits"])
        exec(compile(job["program"], "<program>", "exec", dont_inherit=True), module.__dict__)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    finish = [atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush]
    if "threading" in sys.modules:
        finish.insert(0, sys.modules["threading"]._shutdown)
    for step in finish:
        try:
            step()
        except BaseException:
            code = code or 1
    os._exit(code & 255)


def _module(name: str) -> ModuleType:
    """A fresh module for the program, with what a script expects to find."""
    module = type(sys)(name)
    sys.modules[name] = module
    sys.argv = ["program.py"]
    for command in ("exit", "quit"):
        setattr(builtins, command, _sitebuiltins.Quitter(command, "Ctrl-D"))
    return module
