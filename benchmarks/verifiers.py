"""How many answers the verifiers score in a minute, through the same call as in training.

``python -m benchmarks.verifiers`` prints JSON: math and choice answers a minute (simple ones, and such that need
algebra), seconds for 1,000 small programs, and seconds for answers that are made to take forever.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time

from lit_sdpo.data.task import Row, Task
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.pool import verify_all
from lit_sdpo.rewards.registry import verifier

THINKING = "<think>" + "Let me see, step by step. " * 40 + "</think>"
PROGRAM = "```python\ndef add(a, b):\n    return a + b\n```"
TESTS = {"testtype": "code", "time_limit": 5.0, "context": "", "fn_name": "add", "outputs": [""] * 3}
TESTS["inputs"] = ["assert add(1, 2) == 3", "assert add(4, 4) == 8", "assert add(-1, 1) == 0"]
HOPELESS = [r"9^{9^{9^{9}}}", r"(10^{9})!", "{" * 100_000 + "1" + "}" * 100_000, "1" * 1_000_000, "x+" * 500_000 + "x"]


class Dispatch(Task):
    """Verifies with the verifier of the row."""

    def rows(self, split: str) -> list[Row]:
        """None."""
        return []

    def verify(self, completion: str, row: Row) -> Verdict:
        """Judge one completion."""
        return verifier(row.verifier)(completion, row)


def rows(name: str, truths: list[str]) -> list[Row]:
    return [Row(str(n), [{"role": "user", "content": "?"}], truth, name) for n, truth in enumerate(truths)]


def seconds(completions: list[str], given: list[Row]) -> tuple[float, list[Verdict]]:
    task = Dispatch("benchmark")
    verify_all(task, completions[:4], given[:4])  # Workers start and import once in a run.
    started = time.perf_counter()
    verdicts = verify_all(task, completions, given)
    return time.perf_counter() - started, verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=20_000)
    parser.add_argument("--programs", type=int, default=1_000)
    options = parser.parse_args()
    draw = random.Random(0)
    numbers = [
        draw.choice([str(draw.randrange(10**4)), f"\\frac{{{draw.randrange(1, 99)}}}{{7}}"])
        for _ in range(options.answers)
    ]
    letters = [draw.choice("ABCD") for _ in range(options.answers)]
    cases = {
        "math_boxed": [rf"{THINKING}It is \boxed{{{draw.choice([n, '7'])}}}." for n in numbers],
        "mcq_xml": [f"{THINKING}<answer>\n{draw.choice([n, 'B'])}\n</answer>" for n in letters],
        "mcq_boxed": [rf"{THINKING}\boxed{{{draw.choice([n, 'B'])}}}" for n in letters],
    }
    report: dict[str, float] = {"processors": len(os.sched_getaffinity(0))}
    for name, completions in cases.items():
        spent, verdicts = seconds(completions, rows(name, numbers if name == "math_boxed" else letters))
        assert all(verdict.score is not None for verdict in verdicts)
        report[f"{name} per minute"] = round(60 * len(completions) / spent)
    algebra = [rf"\boxed{{(x+{n})^2}}" for n in range(300)]
    spent, verdicts = seconds(algebra, rows("math_boxed", [f"x^2+{2 * n}x+{n * n}" for n in range(300)]))
    report["algebra per minute"] = round(60 * len(algebra) / spent)
    report["algebra right"] = sum(verdict.score or 0 for verdict in verdicts)
    spent, verdicts = seconds([PROGRAM] * options.programs, rows("code_tests", [json.dumps(TESTS)] * options.programs))
    report["programs seconds"] = round(spent, 1)
    report["programs right"] = sum(verdict.score or 0 for verdict in verdicts)
    worst = 0.0
    for answer in HOPELESS:
        started = time.perf_counter()
        verify_all(Dispatch("benchmark"), [rf"\boxed{{{answer}}}"], rows("math_boxed", ["12"]))
        worst = max(worst, time.perf_counter() - started)
    report["worst answer seconds"] = round(worst, 1)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
