"""Score files of verifier cases: ``python -m tests.verifiers CASES.jsonl ...``.

A case is a JSON line with ``verifier``, ``ground_truth``, ``response``, ``expected``, ``level`` and, for programs,
``hazard``, ``max_seconds`` and ``side_effect``. ``expected`` is a score, ``"abstain"`` where the verifier must not
score, or null where any verdict will do. Cases of the levels must, should and safety pass or fail; peer_split
cases, on which sound verifiers disagree, are only reported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import verifier

COUNTED = ("must", "should", "safety")


def judge(case: dict[str, Any]) -> tuple[bool, str]:
    """Whether a case is met, and what was seen."""
    check: Any = verifier(case["verifier"])
    if case.get("hazard") and case["verifier"] == "code_tests" and check.sandbox.isolation != "bubblewrap":
        raise UserError("hazardous cases run only inside bubblewrap", where=case["id"])
    row = Row(id=case["id"], messages=[], ground_truth=case["ground_truth"], verifier=case["verifier"])
    folder, environment = os.getcwd(), dict(os.environ)
    started = time.monotonic()
    verdict = check(case["response"], row)
    seconds = time.monotonic() - started
    faults = []
    seen = "abstain" if verdict.score is None else verdict.score
    if case["expected"] is not None and seen != case["expected"]:
        faults.append(f"score {seen}, expected {case['expected']}")
    if case.get("max_seconds") and seconds > case["max_seconds"]:
        faults.append(f"took {seconds:.1f} s, allowed {case['max_seconds']} s")
    if (os.getcwd(), dict(os.environ)) != (folder, environment):
        faults.append("changed the working directory or the environment")
    if effect := case.get("side_effect"):
        keep = effect.startswith("keep:")
        if Path(effect.removeprefix("keep:")).expanduser().exists() != keep:
            faults.append(f"left or removed {effect}")
    return not faults, "; ".join(faults)


def main(arguments: list[str] | None = None) -> int:
    """Print each failure and the counts; 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.verifiers")
    parser.add_argument("files", nargs="+", type=Path)
    passed, counts = Counter[bool](), Counter[tuple[str, bool]]()
    for file in parser.parse_args(arguments).files:
        for line in file.read_text(encoding="utf-8").split("\n"):
            if not line.strip():
                continue
            case = json.loads(line)
            met, seen = judge(case)
            counts[case["level"], met] += 1
            if case["level"] in COUNTED:
                passed[met] += 1
            if not met:
                print(f"{case['level']:10} {case['id']}: {seen} ({case.get('why', '')})")
    for level in sorted({level for level, _ in counts}):
        print(f"{level}: {counts[level, True]} as expected, {counts[level, False]} not")
    print(f"{passed[True]} passed, {passed[False]} failed")
    return 1 if passed[False] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
