"""The parts of a report's page that are text and tables."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_sdpo.report.charts.chart import Chart, Missing, svg
from lit_sdpo.report.charts.draw.phase import SIGNS
from lit_sdpo.report.charts.style import looks, swatch
from lit_sdpo.report.claims.table import DOES_NOT, NOT_TESTED, REPLICATES, UNDECIDED, ClaimResult, Verdict
from lit_sdpo.report.comparisons import Comparison, Effect
from lit_sdpo.report.equal_success import EqualSuccess
from lit_sdpo.report.html import Markup, element, join, scrolling, table, text
from lit_sdpo.report.measures import MEASURES, Measure
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study
from lit_sdpo.report.table_files import TIMES, shown_effect

#: With so few methods all measures stand in one table.
FEW_METHODS = 3
#: With more pairs only those that differ are listed.
MOST_PAIRS = 60
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
    for claim, same in itertools.groupby(results, key=lambda r: r.claim):
        group = list(same)
        if all(r.verdict == NOT_TESTED for r in group):
            reasons = " ".join(f"{r.setting}: {r.reason}" if r.setting else r.reason for r in group)
            group = [replace(group[0], setting="any" if group[0].setting else "", reason=reasons)]
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
    header = ("", "claim", "setting", "verdict", "here, with 95 % interval", "why")
    head = element("thead", element("tr", *(element("th", title, scope="col") for title in header)))
    explained = (
        f"{len(results)} verdicts: {total}. A claim replicates if the whole interval of every part is at or above the "
        "smallest effect of interest; it does not if that of a part is below; anything else, and fewer than three "
        "seeds, is undecided. Each interval is a 95 % interval by itself, corrected for nothing but the tasks of a "
        "claim about tasks (Bonferroni): with no effect anywhere it lies above the smallest one in less than 2.5 % of "
        "parts. No p-value decides a verdict; those of pairs of methods, below, are corrected by Holm."
    )
    return join([element("p", explained), scrolling(element("table", head, *bodies), "Claims")])


def _ours(result: ClaimResult) -> Markup:
    parts = [
        f"{part.part.says}: {_shown(part.effect, part.part.measure)}"
        for part in result.parts
        if not part.effect.missing
    ]
    return join(element("div", part) for part in parts) if parts else text("-")


def badge(verdict: Verdict) -> Markup:
    """A verdict as sign, word and colour."""
    return element("span", f"{SIGNS[verdict]} {verdict}", class_=f"verdict {BADGES[verdict]}")


def _shown(effect: Effect, measure: Measure) -> str:
    """An effect with its interval, unit and seeds."""
    if effect.missing:
        return f"- ({effect.missing})"
    unit = "" if measure.ratio and effect.null == 1 else f" {measure.unit}".rstrip()
    return f"{shown_effect(effect, measure)}{unit}, {effect.seeds} seed{'s' * (effect.seeds != 1)}"


def comparisons(
    levels: Mapping[str, Mapping[str, Effect]], found: Sequence[Comparison], methods: Sequence[str]
) -> Markup:
    """Every measure of every method, then all pairs of methods by measure."""
    rows = []
    for name, row in levels.items():
        measure = MEASURES[name]
        better = {1: "more is better", -1: "less is better", 0: ""}[measure.better]
        head = join([measure.title, *([element("div", better, class_="quiet")] if better else [])])
        cells = [_level(row[method], measure) if method in row else "-" for method in methods]
        rows.append([head, measure.unit or "-", *cells])
    parts: list[Markup] = [
        element("p", "Mean over the seeds with its 95 % interval, over seeds and prompts together."),
        table(["measure", "unit", *methods], rows, label="Measures", columns=["", "", *["number"] * len(methods)]),
    ]
    if not found:
        return join([*parts, element("p", "Pairs need runs of two methods or more.", class_="quiet")])
    parts.append(element("h3", "Pairs of methods"))
    parts.append(
        element(
            "p",
            f"How much more the first method has than the second ({TIMES} marks a ratio), paired by seed and, where "
            "evaluations share them, by prompt. p is corrected by Holm over the pairs of a measure; flips: p of all "
            "sign flips of the seeds' differences, which three seeds cannot bring below .25.",
        )
    )
    if len(methods) <= FEW_METHODS:
        return join([*parts, _pairs_table(found, "Pairs", with_measure=True)])
    for k, (_, group) in enumerate(itertools.groupby(found, key=lambda c: c.measure.name)):
        parts.append(_pairs(list(group), opened=k == 0))
    return join(parts)


def equal_success(found: Sequence[EqualSuccess]) -> Markup:
    """Pairs of methods where their training reward is the same, whenever each of them gets there."""
    known = [each for each in found if not each.effect.missing]
    reasons = dict.fromkeys(each.effect.missing for each in found if each.effect.missing)
    parts = [
        element("h3", "At equal training reward"),
        element(
            "p",
            "Each method at its first measurement in the first stage at which its training reward is that of the "
            "other: one that learns faster has not moved further merely because it has learned more.",
        ),
    ]
    if known:
        rows = [
            [
                f"{each.more} against {each.less}",
                each.measure.title,
                f"{each.reward:.2f}",
                _shown(each.effect, each.measure),
            ]
            for each in known
        ]
        header = ["pair", "measure", "reward", "difference or ratio"]
        parts.append(table(header, rows, label="At equal training reward", columns=["", "", "number", "whole"]))
    if reasons:
        parts.append(
            element(
                "p", f"{len(found) - len(known)} of {len(found)} not matched: {'; '.join(reasons)}.", class_="quiet"
            )
        )
    return join(parts)


def _level(effect: Effect, measure: Measure) -> Markup:
    value, _, interval = shown_effect(effect, measure, compared=False).partition(" ")
    return join([value, element("div", interval, class_="quiet")] if interval else [value])


def _pairs(group: Sequence[Comparison], *, opened: bool) -> Markup:
    """All pairs in one measure, behind a line that says how many differ."""
    measure = group[0].measure
    decided = [c for c in group if _differs(c)]
    listed = group if len(group) <= MOST_PAIRS else decided
    summary = element("summary", f"{measure.title}: {len(decided)} of {len(group)} pairs differ")
    rest = "" if listed is group else element("p", "The others are in tables/comparisons.csv.", class_="quiet")
    inside = _pairs_table(listed, f"Pairs: {measure.title}")
    return element("details", summary, inside, rest, **({"open": "open"} if opened else {}))


def _pairs_table(group: Sequence[Comparison], label: str, *, with_measure: bool = False) -> Markup:
    rows = []
    for c in group:
        sign, look = ("▲", "yes") if _differs(c) else ("?", "open")
        verdict = element("span", f"{sign} {c.verdict}", class_=f"verdict {look}")
        p, flips = (f"{x:.3g}" if math.isfinite(x) else "-" for x in (c.p_holm, c.effect.p_flip))
        head = [c.measure.title] if with_measure else []
        rows.append([*head, f"{c.more} against {c.less}", _shown(c.effect, c.measure), p, flips, verdict])
    extra = ["measure"] if with_measure else []
    header = [*extra, "pair", "difference or ratio", "p", "flips", "verdict"]
    return table(header, rows, label=label, columns=["" for _ in extra] + ["", "whole", "number", "number"])


def _differs(comparison: Comparison) -> bool:
    return comparison.verdict.endswith("has more")


def figure(chart: Chart | Missing) -> Markup:
    """A drawing with title, finding, caption and its files; or the sentence in its place."""
    if isinstance(chart, Missing):
        body = element("p", f"Not drawn: {chart.reason}.")
        return element("div", element("h3", chart.title), body, class_="missing", id=chart.name)
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
