"""``lit-sdpo transitions``: which questions of an outside evaluation were lost and won between two models."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_sdpo.text import printable, printable_lines

if TYPE_CHECKING:
    from lit_sdpo.report.items import Record

HEADER = (
    "task",
    "metric",
    "items",
    "before",
    "after",
    "change",
    "lost",
    "won",
    "by guessing",
    "lost, true",
    "won, true",
)


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo transitions BEFORE AFTER``.

    Args:
        arguments: Those after ``transitions``.

    Returns:
        0.

    Raises:
        UserError: A mistake in the arguments, or evaluations that cannot be compared.
    """
    options = _parser().parse_args(arguments)
    from lit_sdpo.harnesses.lm_eval import other_prompts, read_samples, transitions_between  # torch takes a second
    from lit_sdpo.report.items import records_csv

    wanted = {"metric": options.metric, "filter": options.filter, "choices": options.choices}
    before, after = (read_samples(Path(place), **wanted) for place in (options.before, options.after))
    records = transitions_between(before, after)
    for task in sorted(before.keys() ^ after.keys()):
        print(f"note: {printable(task)} is in one of the evaluations only", file=sys.stderr)
    for record in records:
        if others := other_prompts(before[record["task"]], after[record["task"]]):
            text = f"{others} of {record['items']} prompts were rendered differently"
            print(f"note: {printable(record['task'])}: {text}", file=sys.stderr)
    if options.json:
        print(json.dumps([_plain(record) for record in records], indent=1))
    elif options.csv:
        print(printable_lines(records_csv(records)), end="")
    else:
        print(printable_lines(table(records)))
    return 0


def table(records: Sequence[Record]) -> str:
    """The records for a reader, one line each."""
    lines = [list(HEADER), *(_cells(record) for record in records)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADER))]
    padded = [
        [
            cell.ljust(width) if k < 2 or 5 <= k <= 7 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _cells(record: Record) -> list[str]:
    metric = record["metric"] if record["filter"] == "none" else f"{record['metric']},{record['filter']}"
    moved = [_with_interval(record, name, f"{name}_low", f"{name}_high") for name in ("lost", "won")]
    true = [_number(record.get(name)) for name in ("by_guessing", "lost_true", "won_true")]
    change = _with_interval(record, "change", "low", "high")
    return [
        record["task"],
        metric,
        str(record["items"]),
        _number(record["before"]),
        _number(record["after"]),
        change,
        *moved,
        *true,
    ]


def _with_interval(record: Record, name: str, low: str, high: str) -> str:
    if name not in record:
        return "-"
    sign = "+" if name == "change" else ""
    return f"{record[name]:{sign}.3f} [{record[low]:{sign}.3f}, {record[high]:{sign}.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _plain(record: Record) -> dict[str, Any]:
    return {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in record.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-sdpo transitions",
        description="Compare two evaluations of the lm-evaluation-harness question by question.",
        epilog="Both are folders that lm_eval wrote with --log_samples --output_path, or single samples_*.jsonl files.",
        allow_abbrev=False,
    )
    parser.add_argument("before", metavar="BEFORE", help="samples of the model before training")
    parser.add_argument("after", metavar="AFTER", help="samples of the model after training")
    parser.add_argument("--metric", help="metric to compare, such as acc_norm")
    parser.add_argument("--filter", help="filter to compare, such as flexible-extract")
    parser.add_argument("--choices", type=int, metavar="K", help="options per question; default: counted")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the records as JSON")
    form.add_argument("--csv", action="store_true", help="print the records as CSV")
    return parser
