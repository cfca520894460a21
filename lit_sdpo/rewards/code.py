"""Programs and their tests."""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
from collections.abc import Mapping
from typing import Any, cast

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract
from lit_sdpo.rewards.sandbox import Isolation, Outcome, Sandbox

_FENCE = re.compile(r"[ \t]*```[ \t]*([^\s`]*)[^`]*\Z")
_PYTHON = {"", "python", "python3", "py"}
_KINDS = ("code", "functional", "stdin")


def last_program(text: str) -> str | None:
    r"""The last closed code block that is labelled as Python or not at all.

    Example:
        >>> last_program("```python\nprint(1)\n```\nprints\n```text\n1\n```")
        'print(1)'
    """
    program: str | None = None
    label: str | None = None
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        fence = _FENCE.match(line)
        if label is None:
            if fence:
                label, lines = fence.group(1).lower(), []
        elif fence and not fence.group(1):
            if label in _PYTHON:
                program = "\n".join(lines)
            label = None
        else:
            lines.append(line)
    return None if program is None else program.removeprefix("\ufeff")


class CodeTests(Contract):
    """The last Python block passes every test within its time limit (``code_tests``).

    Programs run in a ``Sandbox``. What a test expects stays outside of it wherever the test says so plainly (the output
    of a script or function, ``assert f(x) == literal``); other asserts run beside the program.

    Args:
        isolation: How programs are kept apart; by default what the environment variable ``LIT_SDPO_SANDBOX`` says, else
            ``"bubblewrap"``. See ``Sandbox``.
    """

    markers = (r"(?m)^```",)
    form = "Put the complete program in one ```python code block."

    def __init__(self, isolation: Isolation | None = None) -> None:
        self.sandbox = Sandbox(isolation or cast(Isolation, os.environ.get("LIT_SDPO_SANDBOX", "bubblewrap")))

    def prepare(self) -> None:
        """Check that programs can be isolated here."""
        self.sandbox.prepare()

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Run the tests in order up to the first that fails."""
        program = last_program(text)
        if program is None or not program.strip():
            return self.missing()
        tests = json.loads(ground_truth)
        if not tests["inputs"]:
            return Verdict(None, "", ("no_tests",))
        program = "\n".join(part for part in (tests.get("context"), program) if part)
        count = len(tests["inputs"])
        for index, (given, expected) in enumerate(zip(tests["inputs"], tests["outputs"], strict=True)):
            fault = self._fault(program, tests, given, expected)
            if fault:
                return Verdict(0.0, f"Test {index + 1} of {count}: {fault}", (f"passed:{index}/{count}",))
        return Verdict(1.0)

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The reference solution in a code block, where the data has one."""
        tests = json.loads(ground_truth)
        if not isinstance(tests, dict) or tests.get("testtype") not in _KINDS:
            raise ValueError(f'it has to be JSON with "testtype" (one of {", ".join(_KINDS)}), "inputs", "outputs"')
        if not tests.get("inputs") or len(tests["inputs"]) != len(tests.get("outputs", ())):
            raise ValueError("it has no tests, or not one output for each input")
        solution = extra.get("reference_solution")
        return f"```python\n{solution.strip()}\n```" if isinstance(solution, str) else None

    def _fault(self, program: str, tests: Mapping[str, Any], given: str, expected: str) -> str:
        """What is wrong with one test, or an empty text."""
        seconds = float(tests["time_limit"])
        if tests["testtype"] == "stdin":
            outcome = self.sandbox.run({"kind": "script", "program": program}, given.encode(), seconds=seconds)
            if outcome.ended_by or outcome.exit_code:
                return _ending(outcome)
            same = _lines(outcome.output.decode(errors="replace")) == _lines(expected)
            return "" if same else "the output is wrong."
        job: dict[str, Any] = {"program": program, "token": secrets.token_hex(16)}
        if tests["testtype"] == "functional":
            arguments = [json.loads(line) for line in given.split("\n") if line.strip()]
            job |= {"kind": "functional", "function": tests["fn_name"], "arguments": arguments}
            outcome = self.sandbox.run(job, seconds=seconds)
            return _compare(outcome, [_as_json(json.loads(expected))], job["token"], _as_json)
        test, values = take_out_expected(given)
        outcome = self.sandbox.run(job | {"kind": "asserts", "test": test}, seconds=seconds)
        return _compare(outcome, values, job["token"], lambda value: value)


def take_out_expected(test: str) -> tuple[str, list[Any]]:
    r"""Replace every plain ``assert expression == literal`` by a report of the expression; return test and literals.

    Asserts at the top and in a function ``check`` that runs once are plain. Others stay as they are.

    Example:
        >>> take_out_expected("x = 2\nassert add(x, 2) == 4")
        ('x = 2\n__report__(add(x, 2))', [4])
    """
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError):
        return test, []
    values: list[Any] = []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "check"]
    body: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "check" and len(calls) == 1:
            statement.body = [_reported(inner, values) for inner in statement.body]
        body.append(_reported(statement, values))
    tree.body = body
    return ast.unparse(ast.fix_missing_locations(tree)), values


def _reported(statement: ast.stmt, values: list[Any]) -> ast.stmt:
    if not (isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare)):
        return statement
    compare = statement.test
    if len(compare.ops) != 1 or not isinstance(compare.ops[0], ast.Eq):
        return statement
    try:
        value = ast.literal_eval(compare.comparators[0])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return statement
    values.append(value)
    call = ast.Call(ast.Name("__report__", ast.Load()), [compare.left], [])
    return ast.copy_location(ast.Expr(call), statement)


def _compare(outcome: Outcome, expected: list[Any], token: str, view: Any) -> str:
    """Compare the reported values with what was expected, in order, and ask for the token at the end."""
    if outcome.ended_by:
        return _ending(outcome)
    values: list[Any] = []
    ended = False
    for line in outcome.output.split(b"\n"):
        try:
            kind, content = json.loads(line)
            if kind == "error":
                where, name, message = (str(part) for part in content)
                return f"the {where} raised {name}" + (f": {message}" if message else ".")
            if kind == "value":
                values.append(view(_value(content)))
            ended = ended or (kind == "end" and secrets.compare_digest(str(content), token))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    if values != expected[: len(values)] or len(values) > len(expected):
        return "the function returned a wrong value."
    return "" if ended and len(values) == len(expected) else _ending(outcome)


_READERS: dict[str, Any] = {
    "plain": lambda x: x,
    "int": lambda x: int(x, 16),
    "float": float.fromhex,
    "complex": lambda x: complex(*map(float.fromhex, x)),
    "str": str,
    "bytes": bytes.fromhex,
    "list": lambda x: [_value(item) for item in x],
    "tuple": lambda x: tuple(_value(item) for item in x),
    "set": lambda x: {_value(item) for item in x},
    "dict": lambda x: {_value(key): _value(value) for key, value in x},
    "opaque": lambda x: object(),
}


def _value(content: Any) -> Any:
    kind, data = content
    return _READERS[kind](data)


def _as_json(value: Any) -> Any:
    """The value as JSON has it: tuples are lists, and booleans are not numbers."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    return value


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _ending(outcome: Outcome) -> str:
    if outcome.ended_by == "time":
        return "the time limit was exceeded."
    if outcome.ended_by == "output":
        return "too much output was written."
    return "the program ended with an error." if outcome.exit_code else "the program ended before the test did."
