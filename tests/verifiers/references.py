"""Puts the reference of every row in some files to its verifier: ``python -m tests.verifiers.references FILES ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lit_sdpo.data.readers import read_rows
from lit_sdpo.data.task import Row
from lit_sdpo.rewards.pool import POOL
from lit_sdpo.rewards.registry import verifier


def refused(row: Row) -> str:
    """What the verifier says against the row's own answer, or nothing."""
    verdict = verifier(row.verifier)(row.reference, row)
    return "" if verdict.score == 1.0 else f"{row.id}: {verdict}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is refused and how many were asked; 0 if nothing was."""
    parser = argparse.ArgumentParser(prog="python -m tests.verifiers.references")
    parser.add_argument("files", nargs="+", type=Path)
    wrong = 0
    for file in parser.parse_args(arguments).files:
        rows = [row for row in read_rows(file)[0] if row.reference is not None]
        with ThreadPoolExecutor(POOL.size) as threads:
            found = [text for text in threads.map(refused, rows) if text]
        print(*found, f"{file.name}: {len(rows) - len(found)} of {len(rows)} accepted", sep="\n")
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
