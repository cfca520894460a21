"""Programs and their tests."""

from __future__ import annotations

import binascii
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_sdpo.rewards.base import Verdict, failed
from lit_sdpo.rewards.contract import Contract
from lit_sdpo.rewards.programs.output import CHECKERS
from lit_sdpo.rewards.programs.rows import LONGEST_OUTPUT, Tests, check_tests, read_tests
from lit_sdpo.rewards.sandbox.examiner_pool import Examiners, Report
from lit_sdpo.rewards.sandbox.inside.examiner import ENDED, OWN_FAULT, PURE, SELF_JUDGED, SURE
from lit_sdpo.rewards.sandbox.inside.wire import SHORT, receive, send_to_program
from lit_sdpo.rewards.sandbox.sandbox import Isolation, Sandbox, signal_name

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row

_FENCE = re.compile(r"[ \t]*```[ \t]*([^\s`]*)[^`]*\Z")
_PYTHON = {"", "python", "python3", "py"}
_LATE = "the time limit was exceeded."
#: Processor time of a program beside its own work, for values on their way.
_TRANSPORT_SECONDS = 60.0


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
    their own, where the program's functions and objects are stand-ins and its results plain data. Where a stand-in may
    differ from what it stands for, the test is run once more in one process with the program, and both have to agree;
    where they do not, the verdict is an abstention. All tests of a row see the same run of the program; each test of a
    script is a run of its own. After a test that did not end, the others count as failed.

    The score is 1 if all tests pass; the flag ``passed:k/n`` says how many did.

    Args:
        isolation: How programs are kept apart; by default what the environment variable ``LIT_SDPO_SANDBOX`` says, else
            ``"bubblewrap"``. The environment gives memory and file size too; see ``Sandbox.from_environment``.
    """

    markers = (r"(?m)^```",)
    form = "Put the complete program in one ```python code block."

    isolated = True

    def __init__(self, isolation: Isolation | None = None) -> None:
        self.sandbox = Sandbox.from_environment(isolation)
        self.examiners = Examiners(self.sandbox)

    def prepare(self) -> None:
        """Check that programs can be isolated here."""
        self.sandbox.prepare()

    def seconds(self, row: Row) -> float:
        """More than all tests may take together; the sandbox stops each in time."""
        try:
            tests = read_tests(row.ground_truth)
            return 300.0 + len(tests.inputs) * (4.0 * tests.time_limit + 2.0)
        except ValueError:
            return 300.0

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Run the tests and count those that pass."""
        program = last_program(text)
        if program is None or not program.strip():
            return self.missing()
        truth = json.loads(ground_truth)
        if isinstance(truth, dict) and truth.get("inputs") == []:
            return Verdict(None, "", ("no_tests",))
        tests = read_tests(ground_truth)
        program = "\n".join(part for part in (tests.context, program) if part)
        run = self._scripts if tests.testtype == "stdin" else self._functions
        reports = list(run(program, tests))
        if not any(report.fault and report.standing == SURE for report in reports):
            reports = self._settled(program, tests, reports)
        return _verdict(reports, len(tests.inputs))

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The reference solution in a code block, where the data has one."""
        check_tests(read_tests(ground_truth))
        solution = extra.get("reference_solution")
        return f"```python\n{solution.strip()}\n```" if isinstance(solution, str) else None

    def _functions(self, program: str, tests: Tests) -> Iterator[Report]:
        """A report on each test that calls functions, up to the first that did not end."""
        given: Sequence[Any] = tests.inputs
        if tests.testtype == "functional":
            arguments = [[json.loads(line) for line in text.split("\n") if line.strip()] for text in tests.inputs]
            given = list(zip(arguments, map(json.loads, tests.outputs), strict=True))
        job = {"function": tests.fn_name, "tests": given}
        cpu = tests.time_limit * len(tests.inputs) + _TRANSPORT_SECONDS
        with self.sandbox.open({"do": "program.serve", "program": program}, cpu_seconds=cpu) as place:
            for report in self.examiners.examine(place.connection, job, tests.time_limit):
                signal = place.signal() if report.fault == ENDED else ""
                yield report._replace(fault=f"the program was ended by {signal}.") if signal else report

    def _settled(self, program: str, tests: Tests, reports: list[Report]) -> list[Report]:
        """The reports, the doubtful ones checked by a run in one process with the program.

        That run proves nothing by itself, because there the program can reach the test: it can make an abstention of
        what the stand-ins said, or confirm it.
        """
        doubtful = [index for index, report in enumerate(reports) if report.standing not in (SURE, OWN_FAULT)]
        if not doubtful:
            return reports
        passed = self._together(program, tests, doubtful[-1] + 1)
        for index in doubtful:
            report = reports[index]
            together = passed[index] if index < len(passed) else None
            if together is False or (together is None and report.fault):
                fault = report.fault or "the test fails."
                reports[index] = Report(fault)
            elif report.fault or together is None or report.standing == SELF_JUDGED:
                reports[index] = report._replace(standing=OWN_FAULT)
            else:
                reports[index] = Report("")
        return reports

    def _together(self, program: str, tests: Tests, count: int) -> list[bool]:
        """Whether each of the first tests goes through in one process with the program, up to one that does not end."""
        given = list(tests.inputs[:count])
        modules = sorted(PURE.intersection(re.findall(r"\w+", "\n".join(given))))
        job = {"do": "plain.serve", "program": program, "tests": given, "function": tests.fn_name, "modules": modules}
        cpu = tests.time_limit * count + _TRANSPORT_SECONDS
        passed: list[bool] = []
        with self.sandbox.open(job, cpu_seconds=cpu) as place:
            try:
                receive(place.connection)  # "started"
                for _ in range(count):
                    place.connection.settimeout(1.2 * tests.time_limit + 0.5)
                    passed.append(receive(place.connection) is True)
            except (OSError, EOFError, ValueError):
                pass
        return passed

    def _scripts(self, program: str, tests: Tests) -> Iterator[Report]:
        """A report on each test of a script, up to the first that did not end."""
        seconds = tests.time_limit
        job = {"do": "program.run_scripts", "program": program, "longest": LONGEST_OUTPUT}
        with self.sandbox.open(job, cpu_seconds=seconds) as place:
            connection = place.connection
            for given, expected in zip(tests.inputs, tests.outputs, strict=True):
                try:
                    send_to_program(connection, given)
                    receive(connection)  # "started"
                    connection.settimeout(seconds)
                    started = time.monotonic()
                    code, output, errors = receive(connection)
                    late = time.monotonic() - started > seconds
                except TimeoutError:
                    yield Report(_LATE)
                    return
                except (EOFError, OSError, ValueError):
                    yield Report(ENDED)
                    return
                same = CHECKERS[tests.checker]
                yield Report(
                    _LATE if late else _script_fault(code, binascii.a2b_base64(output), errors, given, expected, same)
                )


def _verdict(reports: Sequence[Report], count: int) -> Verdict:
    """The verdict on a program from the reports on its tests."""
    sure = [(index, report) for index, report in enumerate(reports) if report.fault and report.standing == SURE]
    if sure:
        index, report = sure[0]
        passed = sum(not report.fault and report.standing != OWN_FAULT for report in reports)
        return Verdict(0.0, f"Test {index + 1} of {count}: {report.fault}", (f"passed:{passed}/{count}",))
    for index, report in enumerate(reports):
        if report.standing != SURE:
            cannot = f"Test {index + 1} of {count} cannot be judged: {report.reason}."
            return Verdict(None, cannot, failed("test").flags)
    if len(reports) < count:
        return Verdict(
            None, f"Test {len(reports) + 1} of {count} cannot be judged: its process has ended.", failed("test").flags
        )
    return Verdict(1.0)


def _script_fault(code: int, output: bytes, errors: str, given: str, expected: str, same: Any) -> str:
    if len(output) > LONGEST_OUTPUT:
        return "too much output was written."
    shown = f"For the input {_cut(given)}, "
    if code < 0:
        return f"{shown}the program was ended by {signal_name(-code) or f'signal {-code}'}."
    if code:
        return f"{shown}the program ended with an error: {_cut(errors.strip(), end=True)}"
    printed = output.decode(errors="replace")
    return "" if same(printed, expected) else f"{shown}it printed {_cut(printed)}, which is wrong."


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
