"""The first program inside the sandbox: sets the limits, then runs the model's program and its tests.

It imports nothing but the standard library and knows no expected output: it reports what expressions are worth, and the
process outside compares. A token, known to the tests alone, is written at the end.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
from typing import Any

SHORT = 300


def read_job() -> dict[str, Any]:
    """Read the length and the job from the input, and not one byte more."""
    head = b""
    while not head.endswith(b"\n"):
        head += os.read(0, 1)
    left, body = int(head), b""
    while left > len(body):
        body += os.read(0, left - len(body))
    return json.loads(body)


def set_limits(limits: dict[str, int]) -> None:
    """Hard limits, which the program cannot raise again."""
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        ceiling = resource.getrlimit(name)[1]
        value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(name, (value, value))


def portable(value: Any, depth: int = 0) -> Any:
    """Plain data of a value: JSON with a type name in front, so that nothing has to be unpickled outside."""
    if depth > 100:
        return ["opaque", ""]
    if value is None or isinstance(value, bool):
        return ["plain", value]
    if isinstance(value, int):
        return ["int", hex(int.__index__(value))]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", [float.hex(value.real), float.hex(value.imag)]]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, bytes):
        return ["bytes", bytes.hex(value)]
    for kind, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "set")):
        if isinstance(value, kind):
            members: Any = kind
            return [name, [portable(item, depth + 1) for item in members.__iter__(value)]]
    if isinstance(value, dict):
        return ["dict", [[portable(k, depth + 1), portable(v, depth + 1)] for k, v in dict.items(value)]]
    return ["opaque", type(value).__name__[:SHORT]]


def run_tests(job: dict[str, Any]) -> None:
    """Run the program, then the test, and report over a channel that printing does not reach."""
    channel = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    dumps, write, leave = json.dumps, os.write, os._exit

    def report(kind: str, content: Any) -> None:
        line = memoryview(dumps([kind, content]).encode() + b"\n")
        while line:
            line = line[write(channel, line) :]

    space: dict[str, Any] = {"__name__": "program", "__builtins__": builtins}
    where = "program"
    try:
        exec(compile(job["program"], "<program>", "exec"), space)
        where = "test"
        if job["kind"] == "functional":
            report("value", portable(space[job["function"]](*job["arguments"])))
        else:
            space["__report__"] = lambda value: report("value", portable(value))
            exec(compile(job["test"], "<test>", "exec"), space)
        report("end", job["token"])
    except BaseException as error:
        # The message of a failed assert may hold what was expected.
        message = "" if isinstance(error, AssertionError) else str(error)[:SHORT]
        report("error", [where, type(error).__name__, message])
    leave(0)


def run_script(job: dict[str, Any]) -> None:
    """Run the program as a script on what is left of the input."""
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    exec(compile(job["program"], "<program>", "exec"), module.__dict__)


def main() -> None:
    """Read a job and do it."""
    job = read_job()
    set_limits(job["limits"])
    sys.argv = ["program.py"]
    os.write(1, b"\n")  # The program's time starts here.
    if job["kind"] == "script":
        run_script(job)
    else:
        run_tests(job)


if __name__ == "__main__":
    main()
