"""Evaluate a file of golden cases: ``python -m tests.golden FILE.json [--dtype float32|float64]``."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections import Counter
from pathlib import Path

from tests.golden.check import case_dtype, check_case
from tests.golden.evaluate import not_covered


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dtype", choices=["float32", "float64"], help="force one dtype for every case")
    arguments = parser.parse_args()
    file = json.loads(arguments.file.read_text())
    failed, left = 0, Counter(filter(None, map(not_covered, file["cases"])))
    cases = [case for case in file["cases"] if not not_covered(case)]
    for case in cases:
        try:
            found = check_case(case, arguments.dtype or case_dtype(case, file), file.get("tolerance"))
        except Exception:
            found = [traceback.format_exc()]
        failed += bool(found)
        for difference in found:
            print(f"{case.get('id', '?')}: {difference}")
    if left:
        print(f"not covered: {', '.join(f'{name} ({count})' for name, count in left.items())}")
    print(f"{len(cases) - failed} passed, {failed} failed" + (f", {left.total()} not covered" if left else ""))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
