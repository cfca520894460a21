"""Programs and their tests."""

from __future__ import annotations

import binascii
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from lit_sdpo.rewards.base import Verdict, failed
from lit_sdpo.rewards.cell.examiner import UNSUPPORTED
from lit_sdpo.rewards.cell.wire import SHORT, receive, send_to_program
from lit_sdpo.rewards.contract import Contract
from lit_sdpo.rewards.examiner import Examiners
from lit_sdpo.rewards.sandbox import Isolation, Sandbox

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row

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

    Programs run in a ``Sandbox``, one for each completion. The tests stay outside of it: assertions run in a sandbox of
    their own, where the program's functions are stand-ins and its results plain data. All tests of a row see the same
    run of the program; each test of a script is a run of its own. After a test that did not end, the others count as
    failed.

    The score is 1 if all tests pass; the flag ``passed:k/n`` says how many did.

    Args:
        isolation: How programs are kept apart; by default what the environment variable ``LIT_SDPO_SANDBOX`` says, else
            ``"bubblewrap"``. See ``Sandbox``.
    """

    markers = (r"(?m)^```",)
    form = "Put the complete program in one ```python code block."

    isolated = True

    #: Bytes that a script may print.
    max_output: int = 1 << 20

    def __init__(self, isolation: Isolation | None = None) -> None:
        self.sandbox = Sandbox(isolation or cast(Isolation, os.environ.get("LIT_SDPO_SANDBOX", "bubblewrap")))
        self.examiners = Examiners(self.sandbox)

    def prepare(self) -> None:
        """Check that programs can be isolated here."""
        self.sandbox.prepare()

    def seconds(self, row: Row) -> float:
        """More than all tests may take together; the sandbox stops each in time."""
        try:
            tests = json.loads(row.ground_truth)
            return 120.0 + len(tests["inputs"]) * float(tests["time_limit"])
        except (ValueError, TypeError, KeyError):
            return 120.0

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Run the tests and count those that pass."""
        program = last_program(text)
        if program is None or not program.strip():
            return self.missing()
        tests = json.loads(ground_truth)
        count = len(tests["inputs"])
        if not count:
            return Verdict(None, "", ("no_tests",))
        program = "\n".join(part for part in (tests.get("context"), program) if part)
        run = self._scripts if tests["testtype"] == "stdin" else self._functions
        faults = list(run(program, tests, float(tests["time_limit"])))
        first = next((index for index, fault in enumerate(faults) if fault), None)
        if first is None and len(faults) == count:
            return Verdict(1.0)
        if first is None or UNSUPPORTED in faults:
            return failed("test")
        passed = sum(not fault for fault in faults)
        return Verdict(0.0, f"Test {first + 1} of {count}: {faults[first]}", (f"passed:{passed}/{count}",))

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The reference solution in a code block, where the data has one."""
        tests = json.loads(ground_truth)
        if not isinstance(tests, dict) or tests.get("testtype") not in _KINDS:
            raise ValueError(f'it has to be JSON with "testtype" (one of {", ".join(_KINDS)}), "inputs", "outputs"')
        if not tests.get("inputs") or len(tests["inputs"]) != len(tests.get("outputs", ())):
            raise ValueError("it has no tests, or not one output for each input")
        solution = extra.get("reference_solution")
        return f"```python\n{solution.strip()}\n```" if isinstance(solution, str) else None

    def _functions(self, program: str, tests: Mapping[str, Any], seconds: float) -> Iterator[str]:
        """What is wrong with each test that calls functions, up to the first that did not end."""
        job = {"function": tests.get("fn_name", ""), "tests": tests["inputs"]}
        if tests["testtype"] == "functional":
            arguments = [[json.loads(line) for line in given.split("\n") if line.strip()] for given in tests["inputs"]]
            expected = [json.loads(output) for output in tests["outputs"]]
            job["tests"] = list(zip(arguments, expected, strict=True))
        cpu = seconds * len(tests["inputs"])
        with self.sandbox.open({"do": "program.serve", "program": program}, cpu_seconds=cpu) as connection:
            yield from self.examiners.examine(connection, job, seconds)

    def _scripts(self, program: str, tests: Mapping[str, Any], seconds: float) -> Iterator[str]:
        """What is wrong with each test of a script, up to the first that did not end."""
        job = {"do": "program.run_scripts", "program": program, "longest": self.max_output}
        with self.sandbox.open(job, cpu_seconds=seconds) as connection:
            for given, expected in zip(tests["inputs"], tests["outputs"], strict=True):
                try:
                    send_to_program(connection, given)
                    receive(connection)  # "started"
                    connection.settimeout(seconds)
                    started = time.monotonic()
                    code, output, errors = receive(connection)
                    late = time.monotonic() - started > seconds
                except TimeoutError:
                    yield "the time limit was exceeded."
                    return
                except (EOFError, OSError, ValueError):
                    yield "the program ended before the test did."
                    return
                yield (
                    self._script_fault(code, binascii.a2b_base64(output), errors, given, expected)
                    if not late
                    else ("the time limit was exceeded.")
                )

    def _script_fault(self, code: int, output: bytes, errors: str, given: str, expected: str) -> str:
        if len(output) > self.max_output:
            return "too much output was written."
        shown = f"For the input {_cut(given)}, "
        if code:
            return f"{shown}the program ended with an error: {_cut(errors.strip(), end=True)}"
        printed = output.decode(errors="replace")
        return "" if _lines(printed) == _lines(expected) else f"{shown}it printed {_cut(printed)}, which is wrong."


def share_passed(
    prompts: list[Any], completions: list[Any], flags: list[tuple[str, ...]] | None = None, **columns: list[Any]
) -> list[float | None]:
    """Share of the tests (or cells) that passed, as a reward beside the verifier's: ``components: {passed: <path>}``.

    Example:
        >>> share_passed(["?", "?"], ["", ""], flags=[("passed:1/4",), ()], scores=[0.0, 1.0])
        [0.25, 1.0]
    """
    scores = columns.get("scores") or [None] * len(completions)
    counts = [next((flag for flag in each if _COUNT.match(flag)), "") for each in flags or [()] * len(completions)]
    return [
        int(found[1]) / int(found[2]) if (found := _COUNT.match(count)) else score
        for count, score in zip(counts, scores, strict=True)
    ]


_COUNT = re.compile(r"(?:passed|cells):(\d+)/(\d+)\Z")


def _cut(text: str, *, end: bool = False) -> str:
    """A text short enough to show, its end or its beginning."""
    text = text.rstrip()
    if len(text) <= SHORT:
        return repr(text) if not end else text
    return "..." + text[-SHORT:] if end else repr(text[:SHORT]) + "..."


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
