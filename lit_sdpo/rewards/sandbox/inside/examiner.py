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
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .limits import confine
from .mirrors import Mirror, is_mirror
from .observer import Observer, OvertimeError
from .peer import GoneError, NonsenseError, UnsupportedError
from .wire import receive, send

#: How far a report can be trusted.
SURE, DOUBTED, OWN_FAULT, SELF_JUDGED = "sure", "doubted", "own_fault", "self_judged"

ENDED = "the program ended before the test did."

#: Modules that look at nothing but their arguments; tests have them without an import, as many count on the program's.
_PURE = (
    "math cmath collections itertools functools operator re string json datetime decimal fractions typing copy"
    " statistics heapq bisect textwrap dataclasses enum abc types numbers unicodedata array hashlib base64 binascii"
    " struct pprint contextlib io uuid ipaddress calendar asyncio keyword colorsys difflib html zlib"
)
PURE = frozenset(_PURE.split())
_IMPURE = {"open", "input", "eval", "exec", "globals", "locals", "id", "print", "__import__", "compile", "breakpoint"}


class _Program(Observer):
    """The program under test, with its names."""

    def __init__(self, connection: _socket.socket, limit: float) -> None:
        super().__init__(connection, limit)
        self.names: dict[str, bool] = {}
        self.given: set[str] = set()

    def start(self, tested: str) -> None:
        """Run the program; of the names that Python has itself, tests see the program's only for what is ``tested``."""
        found = self.call("run")
        self.names = {n: bool(module) for n, module in found.items() if n == tested or not hasattr(builtins, n)}

    def look_up(self, name: str) -> Any:
        """What the program calls ``name``: plain data, a stand-in, or the standard library's module of that name."""
        if self.names[name] and name in sys.stdlib_module_names:
            return importlib.import_module(name)
        value = self.call("look_up", name)
        if is_mirror(value):
            self.called[value._number_] = name
            if isinstance(value, Mirror):
                self.named.add(value._number_)
        return value


def run_test(program: _Program, text: str) -> str:
    """What is wrong with one test made of statements, or an empty text."""
    tree = ast.parse(text)
    code = compile(tree, "<test>", "exec", dont_inherit=True)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for reason in _beyond(tree, program.names.keys()):
        program.doubt(reason)
    space: dict[str, Any] = {"__name__": "test", "__builtins__": builtins}
    space |= {name: importlib.import_module(name) for name in sorted((used & PURE) - program.names.keys())}
    space |= {name: program.look_up(name) for name in sorted(used & program.names.keys())}
    program.given = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    program.last = ""
    try:
        exec(code, space)
    except AssertionError as error:
        # The message of a failed assert may hold what was expected.
        if hasattr(error, "remote"):
            raise
        return f"{program.last}, which is wrong." if program.last else "an assertion failed."
    return ""


def _beyond(tree: ast.AST, names: Any) -> list[str]:
    """What of a test goes beyond calls of functions with data."""
    found = []
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Name):
            if node.id in _IMPURE and isinstance(node.ctx, ast.Load) and node.id not in names:
                found.append(f"a test uses {node.id}")
            if isinstance(node.ctx, ast.Store) and node.id in names:
                found.append(f"a test gives another meaning to {node.id}")
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            found.append(f"a test gives another meaning to {node.name}")
        elif isinstance(node, ast.Compare) and _asks_for_identity(node):
            found.append("a test asks which object a value is")
        found += [f"a test uses {name}" for name in modules if name.partition(".")[0] not in PURE]
    return found


def _asks_for_identity(node: ast.Compare) -> bool:
    known = any(isinstance(side, ast.Constant) for side in (node.left, *node.comparators))
    return not known and any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops)


def run_function(program: _Program, name: str, arguments: list[Any], expected: Any) -> str:
    """What is wrong with the result of one call, or an empty text."""
    if name in program.names:
        function = program.look_up(name)
    elif "Solution" in program.names:
        function = getattr(program.look_up("Solution")(), name)
    else:
        return f"the program has no function {name}."
    if not is_mirror(function):
        return f"{name} is not a function."
    program.called[function._number_] = name
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


def examine(program: _Program, job: Mapping[str, Any], report: Callable[[list[str]], None]) -> None:
    """Report one fault a test, empty where there is none, up to the first after which nothing more can be tested.

    A report is ``[fault, standing, reason]``, the standing one of those above.
    """
    try:
        program.start(job["function"])
        for test in job["tests"]:
            program.begin_test()
            sys.stdout = sys.__stdout__
            report(_examined(program, job["function"], test))
    except BaseException as error:
        report(_ended(program, error))


def _examined(program: _Program, function: str, test: Any) -> list[str]:
    standing = SURE
    try:
        fault = run_test(program, test) if isinstance(test, str) else run_function(program, function, *test)
    except BaseException as error:
        if isinstance(error, GoneError) or program.overtime:
            raise
        fault, standing = _fault(program, error)
        program.raised -= hasattr(error, "remote")
    if program.overtime:
        raise OvertimeError
    if program.raised > 0:
        program.doubt("a test handles an exception of the program")
    if not fault and program.swallowed:
        fault = "an assertion failed in a function that the program called."
    if standing == OWN_FAULT:
        return ["", OWN_FAULT, fault.rstrip(".")]
    if not isinstance(test, str):
        return [fault, SURE, ""]
    if program.spoofed:
        return [fault or "an object of the program says that it is equal to everything.", SURE, ""]
    if program.self_judged and not fault:
        return ["", SELF_JUDGED, "an object of the program decides the comparison"]
    return [fault, DOUBTED if program.doubts else SURE, "; ".join(program.doubts[:3])]


def _ended(program: _Program, error: BaseException) -> list[str]:
    if program.overtime:
        return ["the time limit was exceeded.", DOUBTED if program.doubts else SURE, "; ".join(program.doubts[:3])]
    if hasattr(error, "remote"):
        return [_fault(program, error)[0], SURE, ""]
    if isinstance(error, NonsenseError):
        return ["the program disturbed its test.", DOUBTED, "what the program returns cannot be shown to the test"]
    return [ENDED, SURE, ""]


def _fault(program: _Program, error: BaseException) -> tuple[str, str]:
    """What is wrong, and whether it is the test's own fault."""
    if isinstance(error, UnsupportedError):
        program.doubt(str(error))
        return "the test cannot be run apart from the program.", SURE
    if hasattr(error, "remote"):
        name, text, lines = error.remote
        if name == "NameError" and any(f"'{given}'" in text for given in program.given):
            program.doubt("the program uses a name of the test")
        place = f" in line {lines[0]}" if lines else ""
        return f"the program raised {name}{place}" + (f": {text}" if text else "."), SURE
    if isinstance(error, NameError):
        return f"the program does not define {error.name}.", SURE
    if isinstance(error, ImportError | SyntaxError | OSError | MemoryError):
        return f"the test raised {type(error).__name__}: {error}"[:300], OWN_FAULT
    # The text could hold what was expected.
    return f"the test raised {type(error).__name__}.", SURE


def serve(connection: _socket.socket, settings: Mapping[str, Any]) -> None:
    """Take jobs, each with a connection to its program, and examine each in a process of its own."""
    send(connection, "ready")
    while True:
        head, extra, _, _ = connection.recvmsg(8, _socket.CMSG_SPACE(4))
        if not head:
            return
        descriptor = array.array("i", extra[0][2][:4])[0]
        body = bytearray()
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
                examine(_Program(to_program, job["seconds"]), job, lambda report: send(connection, report))
            except BaseException:
                send(connection, [ENDED, SURE, ""])
            os._exit(0)
        os.close(descriptor)
        _, status = os.waitpid(child, 0)
        if status:  # Killed: for its memory, by the system, or by a test.
            send(connection, ["", OWN_FAULT, f"the process of the test ended with status {status}"])
        send(connection, None)
