"""Reads the ground truth of ``code_tests``, and refuses what no program or every program would pass."""

from __future__ import annotations

import ast
import builtins
import json
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lit_sdpo.rewards.programs.output import CHECKERS
from lit_sdpo.rewards.sandbox.inside.wire import LONGEST

KINDS = ("code", "functional", "stdin")
#: Bytes that a script may print.
LONGEST_OUTPUT = 1 << 20
#: Seconds that a test may be given.
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Tests:
    """The tests of one row.

    Attributes:
        testtype: ``code`` (each input is Python with assertions), ``functional`` (JSON arguments, one a line, and the
            JSON result) or ``stdin`` (what a script reads and prints).
        inputs: One text a test.
        outputs: One text a test; empty for ``code``.
        fn_name: The function under test.
        time_limit: Seconds for each test.
        context: Python that stands in front of the program.
        checker: How a script's output is compared; see ``code_output``.
    """

    testtype: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    time_limit: float
    fn_name: str = ""
    context: str = ""
    checker: str = "lines"


def read_tests(ground_truth: str) -> Tests:
    """The tests in a ground truth.

    Raises:
        ValueError: If they are none; the message names the field.
    """
    try:
        truth = json.loads(ground_truth)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(truth, dict) or truth.get("testtype") not in KINDS:
        raise ValueError(f'it has to be JSON with "testtype" (one of {", ".join(KINDS)}), "inputs", "outputs"')
    for field in ("inputs", "outputs"):
        values = truth.get(field)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f'"{field}" has to be a list of texts')
    if not truth["inputs"] or len(truth["inputs"]) != len(truth["outputs"]):
        raise ValueError("it has no tests, or not one output for each input")
    for field in ("fn_name", "context"):
        if not isinstance(truth.get(field) or "", str):
            raise ValueError(f'"{field}" has to be text')
    limit = truth.get("time_limit")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= LONGEST_SECONDS:
        raise ValueError(f'"time_limit" has to be seconds, above 0 and at most {LONGEST_SECONDS:.0f}, not {limit!r}')
    if truth.get("checker", "lines") not in CHECKERS:
        raise ValueError(f'"checker" has to be one of {", ".join(CHECKERS)}')
    return Tests(
        testtype=truth["testtype"],
        inputs=tuple(truth["inputs"]),
        outputs=tuple(truth["outputs"]),
        time_limit=float(limit),
        fn_name=truth.get("fn_name") or "",
        context=truth.get("context") or "",
        checker=truth.get("checker", "lines"),
    )


def check_tests(tests: Tests) -> None:
    """Look for tests that no program can pass, or that every program passes.

    Raises:
        ValueError: If there is one; the message names the field.
    """
    _python(tests.context, '"context"')
    if len(tests.context.encode("utf-8", "surrogatepass")) > LONGEST:
        raise ValueError(f'"context" is longer than {LONGEST} bytes')
    if tests.testtype == "functional" and not tests.fn_name.isidentifier():
        raise ValueError('"fn_name" has to name the function under test')
    for number, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True)):
        place = f'"inputs", entry {number}'
        if _size(given) > LONGEST // 2:
            raise ValueError(f"{place} is longer than the {LONGEST // 2} bytes that a program can be given")
        if tests.testtype == "stdin":
            if _size(expected) > LONGEST_OUTPUT:
                raise ValueError(f'"outputs", entry {number} is longer than the {LONGEST_OUTPUT} bytes that count')
        elif tests.testtype == "functional":
            _check_json(given, expected, number)
        else:
            _check_assertions(given, place, tests.fn_name)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _python(text: str, place: str) -> ast.Module:
    try:
        with warnings.catch_warnings():  # Of what is odd but runs.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
            compile(tree, "<test>", "exec", dont_inherit=True)
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{place} is no Python ({error})") from error


def _check_json(given: str, expected: str, number: int) -> None:
    try:
        for line in given.split("\n"):
            if line.strip():
                json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'"inputs", entry {number} is not one JSON value a line ({error})') from error
    try:
        if _has_nan(json.loads(expected)):
            raise ValueError("NaN equals nothing")
    except (ValueError, RecursionError) as error:
        raise ValueError(f'"outputs", entry {number} is no JSON value that a result can equal ({error})') from error


def _has_nan(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_has_nan, value))
    return isinstance(value, float) and math.isnan(value)


def _check_assertions(text: str, place: str, tested: str) -> None:
    run = list(_run(_python(text, place)))
    if not any(map(_asserts, run)):
        raise ValueError(f"{place} asserts nothing")
    own = {node.id for node in run if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in run if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {node.arg for node in run if isinstance(node, ast.arg)}
    for node in run:
        if isinstance(node, ast.Import | ast.ImportFrom):
            own |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    used = {node.id for node in run if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if not any(name == tested or (name not in own and not hasattr(builtins, name)) for name in used):
        raise ValueError(f"{place} uses nothing of the program")


def _run(tree: ast.Module) -> Iterator[ast.AST]:
    """The parts of a test that are run: what stands in a function or class that is never named is not."""
    waiting: dict[str, list[ast.AST]] = {}
    named: set[str] = set()
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            queue += node.decorator_list
            if node.name in named or node.decorator_list or getattr(node, "bases", None):
                queue += _inside(node)
            else:
                waiting.setdefault(node.name, []).append(node)
            continue
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name:
            named.add(name)
            for found in waiting.pop(name, ()):
                queue += _inside(found)
        queue += ast.iter_child_nodes(node)


def _inside(node: ast.AST) -> Iterable[ast.AST]:
    # A class's methods run with it: which of them are called by other names is not followed.
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.ClassDef) and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ast.iter_child_nodes(child)
        else:
            yield child


def _asserts(node: ast.AST) -> bool:
    """Whether a part of a test can fail because of what the program did."""
    if isinstance(node, ast.Assert):
        constant = isinstance(node.test, ast.Constant) and bool(node.test.value)
        return not constant and not (isinstance(node.test, ast.Tuple) and node.test.elts)
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return "assert" in called.lower() or called in ("fail", "exit", "raises", "run")
    return isinstance(node, ast.Raise)
