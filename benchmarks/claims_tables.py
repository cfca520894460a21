"""The tables of docs/claims.md from the kept files of its runs: ``make claims-tables``.

    lit-sdpo report docs/data/claims.tar.xz -o runs/claims-tables --overwrite
    python -m benchmarks.claims_tables runs/claims-tables/tables [--write]

Each table stands between ``<!-- NAME -->`` and ``<!-- end -->`` on the page. Without ``--write`` the exit code says
whether the page has them as they come out.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import sys
from pathlib import Path
from statistics import fmean

import torch

from lit_sdpo.functional import mean_with_interval
from lit_sdpo.report.table_files import NONE, TIMES, markdown

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
SETTINGS = ("paper's ratio", "matched rate")
#: Measures of a run's end, and of its evaluations inside stages (means over the tasks), with their headings.
ENDS = {
    "average_accuracy": "average at the end",
    "learning_accuracy": "after each own stage",
    "forgetting": "forgetting",
    "ood_change": "probes, points",
    "prior_change": "prior ability, points",
    "relative_norm": "drift of weights",
}
INSIDE = {
    "average_min_accuracy": "min-ACC",
    "worst_case_accuracy": "worst-case accuracy",
    "stability_gap": "stability gap",
    "windowed_forgetting": "windowed forgetting",
    "windowed_plasticity": "windowed plasticity",
    "learning_curve_area": "area under the curve",
}

Table = list[dict[str, str]]


def read(folder: Path, name: str) -> Table:
    """The rows of one of a report's tables."""
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def verdicts(folder: Path) -> str:
    """One row a claim: its verdict and the numbers of its statements, at both settings."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    found: dict[tuple[str, str, str], str] = {}
    for line in read(folder, "claims"):
        if line["setting"] in SETTINGS:
            cell = rows.setdefault((line["claim"], line["sentence"]), {}).setdefault(line["setting"], [])
            cell.append(f"{line['statement']} {numbers(line, TIMES * (line['unit'] == ''))}")
            found[line["claim"], line["sentence"], line["setting"]] = line["claim_verdict"]
    return markdown(
        ["claim", "at the paper's ratio of rates", "at one rate"],
        [
            [f"{claim}. {text}", *(f"**{found[claim, text, s]}**: {'; '.join(cells[s])}" for s in SETTINGS)]
            for (claim, text), cells in rows.items()
        ],
    )


def numbers(line: dict[str, str], sign: str = "") -> str:
    """Value and interval of a row, three digits each."""
    if not line["value"]:
        return NONE
    value, low, high = (f"{float(line[name]):.3g}{sign}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def methods(folder: Path) -> str:
    """One row a method: what is there at the end, with intervals over seeds and prompts."""
    rows: dict[str, dict[str, str]] = {}
    for line in read(folder, "methods"):
        rows.setdefault(line["method"], {})[line["measure"]] = numbers(line)
    return markdown(
        ["method", *ENDS.values()], [[f"`{name}`", *(cells[each] for each in ENDS)] for name, cells in rows.items()]
    )


def inside(folder: Path) -> str:
    """One row a method: what evaluations inside stages see, means over tasks and t intervals over seeds."""
    runs: dict[str, dict[str, dict[str, list[float]]]] = {}
    for line in read(folder, "curves"):
        of_seeds = runs.setdefault(line["method"], {}).setdefault(line["measure"], {})
        if line["value"]:
            of_seeds.setdefault(line["seed"], []).append(float(line["value"]))
    rows = [
        [f"`{name}`", *(_interval(list(map(fmean, found[each].values()))) for each in INSIDE)]
        for name, found in runs.items()
    ]
    return markdown(["method", *INSIDE.values()], rows)


def _interval(values: list[float]) -> str:
    mean, low, high = mean_with_interval(torch.tensor(values, dtype=torch.float64))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def filled(page: str, folder: Path) -> str:
    """The page with its tables made anew."""
    for make in (verdicts, methods, inside):
        head, end = f"<!-- {make.__name__} -->\n", "<!-- end -->"
        assert page.count(head) == 1, make.__name__
        before, after = page.split(head)
        page = before + head + make(folder) + "\n" + end + after.split(end, 1)[1]
    return page


def main() -> int:
    """Write the tables, or show where the page differs; 0 where it does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--write", action="store_true", help="put them into the page")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    made = filled(page, options.tables)
    if options.write:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    sys.stdout.writelines(difflib.unified_diff(page.splitlines(True), made.splitlines(True), "docs", "made"))
    return int(page != made)


if __name__ == "__main__":
    sys.exit(main())
