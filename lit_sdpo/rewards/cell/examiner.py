"""Runs tests that stay away from the program under test: its functions are stand-ins here, its results plain data.

Nothing that the program patches, defines or prints can touch a comparison made here.
"""

from __future__ import annotations

import _socket
import array
import ast
import builtins
import importlib
import json
import os
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .limits import confine
from .wire import FUNCTIONS, OPERATORS, Peer, UnsupportedError, receive, send

UNSUPPORTED = "the test cannot be run apart from the program."
_SHOWN = 200


class Remote:
    """Stands in for an object of the program; whatever is done to it is done there."""

    __slots__ = ("_name_", "_number_", "_peer_")

    def __init__(self, peer: Peer, number: int, name: str) -> None:
        for slot, value in zip(("_peer_", "_number_", "_name_"), (peer, number, name), strict=True):
            object.__setattr__(self, slot, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it there."""
        return self._peer_.call(self._number_, *arguments, **named)  # type: ignore[attr-defined]

    def __eq__(self, other: object) -> bool:
        """What the program says of two objects of its own; never equal to anything else."""
        return isinstance(other, Remote) and bool(self._peer_.call("eq", self, other))  # type: ignore[attr-defined]

    def __ne__(self, other: object) -> bool:
        """The opposite of equal."""
        return not self == other

    def __hash__(self) -> int:
        """Hash by number."""
        return hash(self._number_)  # type: ignore[attr-defined]


def _forward(operation: str) -> Callable[..., Any]:
    return lambda self, *arguments: self._peer_.call(operation, self, *arguments)


def _forward_reflected(operation: str) -> Callable[..., Any]:
    return lambda self, other: self._peer_.call(operation, other, self)


_REFLECTED = "add sub mul truediv floordiv mod pow matmul and_ or_ xor"
for _name in f"{OPERATORS} {FUNCTIONS}".replace(" eq ", " ").split():
    setattr(Remote, f"__{_name.rstrip('_')}__", _forward(_name))
for _name in _REFLECTED.split():
    setattr(Remote, f"__r{_name.rstrip('_')}__", _forward_reflected(_name))


class _Program(Peer):
    """The program under test, and the last call that a test made of it."""

    def __init__(self, connection: _socket.socket) -> None:
        super().__init__(connection, {}, Remote, program=False)
        self.last = ""
        self.names: dict[str, bool] = {}
        self.called: dict[int, str] = {}

    def call(self, function: str | int, *arguments: Any, **named: Any) -> Any:
        """Call, and keep what was called and what came of it in words."""
        result = super().call(function, *arguments, **named)
        if isinstance(function, int):
            given = [_shown(argument) for argument in arguments]
            given += [f"{name}={_shown(value)}" for name, value in named.items()]
            self.last = f"{self.called.get(function, 'it')}({', '.join(given)}) returned {_shown(result)}"
        return result

    def start(self, tested: str) -> None:
        """Run the program; of the names that Python has itself, tests see the program's only for what is ``tested``."""
        found = self.call("run")
        self.names = {n: bool(module) for n, module in found.items() if n == tested or not hasattr(builtins, n)}

    def look_up(self, name: str) -> Any:
        """What the program calls ``name``: plain data, a stand-in, or the standard library's module of that name."""
        if self.names[name] and name in sys.stdlib_module_names:
            return importlib.import_module(name)
        value = self.call("look_up", name)
        if isinstance(value, Remote):
            self.called[value._number_] = name  # type: ignore[attr-defined]
        return value


def _shown(value: Any) -> str:
    if isinstance(value, Remote):
        return f"<{value._name_}>"  # type: ignore[attr-defined]
    try:
        text = _short.repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxset = _short.maxdict = _short.maxfrozenset = 20
_short.maxstring = _short.maxother = _short.maxlong = _SHOWN


def run_test(program: _Program, text: str) -> str:
    """What is wrong with one test made of statements, or an empty text."""
    tree = ast.parse(text)
    code = compile(tree, "<test>", "exec")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    space: dict[str, Any] = {"__name__": "test", "__builtins__": builtins}
    space |= {name: program.look_up(name) for name in sorted(used & program.names.keys())}
    program.last = ""
    try:
        exec(code, space)
    except AssertionError as error:
        # The message of a failed assert may hold what was expected.
        if hasattr(error, "remote"):
            raise
        return f"{program.last}, which is wrong." if program.last else "an assertion failed."
    return ""


def run_function(program: _Program, name: str, arguments: list[Any], expected: Any) -> str:
    """What is wrong with the result of one call, or an empty text."""
    if name in program.names:
        function = program.look_up(name)
    elif "Solution" in program.names:
        function = getattr(program.look_up("Solution")(), name)
        program.called[getattr(function, "_number_", -1)] = name
    else:
        return f"the program has no function {name}."
    if not isinstance(function, Remote):
        return f"{name} is not a function."
    result = function(*arguments)
    return "" if _as_json(result) == _as_json(expected) else f"{program.last}, which is wrong."


def _as_json(value: Any) -> Any:
    """The value as JSON has it: tuples are lists, and booleans are not numbers."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    return value


def examine(program: _Program, job: Mapping[str, Any], report: Callable[[str], None]) -> None:
    """Report one fault a test, empty where there is none, up to the first after which nothing more can be tested."""
    try:
        program.start(job["function"])
        for test in job["tests"]:
            try:
                if isinstance(test, str):
                    report(run_test(program, test))
                else:
                    report(run_function(program, job["function"], *test))
            except (EOFError, OSError) as error:
                if not hasattr(error, "remote"):
                    raise
                report(_fault(error))
            except BaseException as error:
                report(_fault(error))
    except BaseException as error:
        gone = isinstance(error, EOFError | OSError) and not hasattr(error, "remote")
        report("the program ended before the test did." if gone else _fault(error))


def _fault(error: BaseException) -> str:
    if isinstance(error, UnsupportedError):
        return UNSUPPORTED
    if not hasattr(error, "remote"):
        # The text could hold what was expected.
        return f"the test raised {type(error).__name__}."
    name, text, lines = error.remote
    place = f" in line {lines[0]}" if lines else ""
    return f"the program raised {name}{place}" + (f": {text}" if text else ".")


def serve(connection: _socket.socket, settings: Mapping[str, Any]) -> None:
    """Take jobs, each with a connection to its program, and examine each in a process of its own."""
    send(connection, "ready")
    while True:
        head, extra, _, _ = connection.recvmsg(8, _socket.CMSG_SPACE(4))
        if not head:
            return
        descriptor = array.array("i", extra[0][2][:4])[0]
        body = b""
        while len(body) < int.from_bytes(head, "big"):
            body += connection.recv(1 << 20)
        child = os.fork()
        if child == 0:
            confine(settings["limits"])
            job = json.loads(body)
            to_program = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
            try:
                receive(to_program)  # "started": the program's time begins.
                send(connection, "started")
                examine(_Program(to_program), job, lambda fault: send(connection, fault))
            except BaseException:
                send(connection, "the program ended before the test did.")
            send(connection, None)
            os._exit(0)
        os.close(descriptor)
        os.waitpid(child, 0)
