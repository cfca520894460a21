"""The parts of a report's page that are text and tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from lit_sdpo.report.charts.chart import Chart, Missing, svg
from lit_sdpo.report.charts.draw.phase import SIGNS
from lit_sdpo.report.charts.style import looks, swatch
from lit_sdpo.report.claims.table import DOES_NOT, NOT_TESTED, REPLICATES, UNDECIDED, ClaimResult, Verdict
from lit_sdpo.report.html import Markup, element, join, scrolling, table, text
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study
from lit_sdpo.report.table_files import shown_with_unit

BADGES: dict[Verdict, str] = {REPLICATES: "yes", DOES_NOT: "no", UNDECIDED: "open", NOT_TESTED: "none"}
NAMES = {"class": "module", "lr": "learning rate", "steps": "steps a stage", "prompts": "prompts a step"}


def what_was_run(study: Study) -> Markup:
    """Methods with their looks, seeds and the settings that differ; the settings that all share; versions."""
    differing = study.differing()
    names = list(dict.fromkeys(name for row in differing.values() for name in row))
    rows = []
    for i, (method, look) in enumerate(looks(study.methods).items()):
        drawn = Markup(svg(swatch(look), f"swatch-{i}", f"line and marker of {method}"))
        seeds = ", ".join(str(run.seed) for run in study.runs(method))
        settings = [_setting(differing[method].get(name)) for name in names]
        rows.append([join([element("span", drawn, class_="swatch"), method]), seeds, *settings])
    first = study.all_runs[0]
    shared = {name: value for name, value in study.settings(first).items() if name not in names and value is not None}
    header = ["method", "seeds", *(NAMES.get(name, name) for name in names)]
    parts = [table(header, rows, label="Methods and settings", columns=["whole", "whole"])]
    if shared:
        common = "; ".join(f"{NAMES.get(name, name)} {_setting(value)}" for name, value in shared.items())
        parts.append(element("p", f"The same in all runs: {common}.", class_="wrap"))
    parts.append(element("p", _versions(study.all_runs), class_="quiet"))
    return join(parts)


def _setting(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _versions(runs: Sequence[Run]) -> str:
    """Versions of the packages that the runs were made with; more than one where they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        path = run.folder / "environment.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            pairs = {"python": content["python"], **content["versions"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for name, version in pairs.items():
            found.setdefault(str(name), {})[str(version)] = None
    if not found:
        return "The runs do not say with which versions they were made."
    return "Made with " + ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items()) + "."


def claims_table(results: Sequence[ClaimResult]) -> Markup:
    """Claim and the paper's numbers, then a row per setting: verdict, ours with intervals, and why."""
    counts = {verdict: sum(r.verdict == verdict for r in results) for verdict in SIGNS}
    total = ", ".join(f"{SIGNS[verdict]} {n} {verdict}" for verdict, n in counts.items())
    bodies = []
    tested = [r for r in results if r.verdict != NOT_TESTED]
    for claim, same in itertools.groupby(tested, key=lambda r: r.claim):
        group = list(same)
        paper = element("div", f"Paper: {claim.paper}", class_="quiet")
        span = {"rowspan": str(len(group))}
        heads = [
            element("th", claim.id, scope="rowgroup", **span),
            element("td", claim.sentence, paper, class_="wide", **span),
        ]
        rows = []
        for k, r in enumerate(group):
            cells = [
                element("td", r.setting or "-"),
                element("td", badge(r.verdict)),
                element("td", _ours(r), class_="wide"),
            ]
            rows.append(element("tr", *(heads if k == 0 else []), *cells, element("td", r.reason, class_="wide")))
        bodies.append(element("tbody", *rows))
    header = ("no.", "claim", "setting", "verdict", "here, with 95 % interval", "why")
    head = element("thead", element("tr", *(element("th", title, scope="col") for title in header)))
    if not tested:
        return join([element("p", "These runs test none of the paper's claims."), _untested(results)])
    explained = (
        f"{len(results)} verdicts: {total}. A claim replicates if the whole interval of every part is at or above the "
        "smallest effect of interest; it does not if that of a part is below; anything else, and fewer than three "
        "seeds, is undecided. Each interval is a 95 % interval by itself, corrected for nothing but the tasks of a "
        "claim about tasks (Bonferroni): with no effect anywhere it lies above the smallest one in less than 2.5 % of "
        "parts. No p-value decides a verdict; those of pairs of methods, below, are corrected by Holm."
    )
    tables = scrolling(element("table", head, *bodies), "Claims")
    return join([element("p", explained), tables, _untested(results)])


def _untested(results: Sequence[ClaimResult]) -> Markup:
    """Claims at settings that the runs do not have, closed: nothing here is a result."""
    rows = []
    for claim, same in itertools.groupby((r for r in results if r.verdict == NOT_TESTED), key=lambda r: r.claim):
        reasons = dict.fromkeys(f"{r.setting}: {r.reason}" if r.setting else r.reason for r in same)
        rows.append([claim.id, claim.sentence, " ".join(reasons)])
    if not rows:
        return text("")
    count = sum(r.verdict == NOT_TESTED for r in results)
    shown = table(["no.", "claim", "why"], rows, label="Claims that were not tested", columns=["", "wide", "wide"])
    return element("details", element("summary", f"Not tested by these runs: {count} verdicts"), shown)


def _ours(result: ClaimResult) -> Markup:
    parts = [
        f"{part.part.says}: {shown_with_unit(part.effect, part.part.measure)}"
        for part in result.parts
        if not part.effect.missing
    ]
    return join(element("div", part) for part in parts) if parts else text("-")


def badge(verdict: Verdict) -> Markup:
    """A verdict as sign, word and colour."""
    return element("span", f"{SIGNS[verdict]} {verdict}", class_=f"verdict {BADGES[verdict]}")


def figures(charts: Sequence[Chart | Missing]) -> Markup:
    """All drawings, and behind a closed line what those need that could not be drawn."""
    missing = [chart for chart in charts if isinstance(chart, Missing)]
    parts = [figure(chart) for chart in charts if isinstance(chart, Chart)]
    if missing:
        lines = [element("li", f"{chart.title}: {chart.reason}.", id=chart.name) for chart in missing]
        summary = element("summary", f"Not drawn: {len(missing)} figures, and what they need")
        parts.append(element("details", summary, element("ul", *lines, class_="quiet")))
    return join(parts)


def figure(chart: Chart) -> Markup:
    """A drawing with title, finding, caption and its files."""
    files = join(element("a", kind.upper(), href=f"figures/{chart.name}.{kind}") for kind in ("csv", "svg", "png"))
    drawing = scrolling(Markup(chart.svg), chart.title)
    return element(
        "figure",
        element("h3", chart.title),
        element("p", chart.finding, class_="finding"),
        drawing,
        element("figcaption", element("p", chart.caption), files),
        id=chart.name,
    )


def left_out(study: Study) -> Markup:
    """Folders that are not among the runs, and why."""
    if not study.left_out:
        return element("p", "None: every run that was found is in the report.")
    rows = [[str(folder), reason] for folder, reason in study.left_out]
    return table(["folder", "reason"], rows, label="Left-out runs", columns=["wrap", "wrap"])
