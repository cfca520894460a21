"""The parts of a report's page that are text and tables."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lit_sdpo.report.charts.chart import Chart, Missing, svg
from lit_sdpo.report.charts.draw.phase import SIGNS
from lit_sdpo.report.charts.style import looks, swatch
from lit_sdpo.report.claims.table import DOES_NOT, NOT_TESTED, REPLICATES, UNDECIDED, ClaimResult, Verdict
from lit_sdpo.report.comparisons import Comparison, Effect
from lit_sdpo.report.html import Markup, element, join, table, text
from lit_sdpo.report.measures import MEASURES, Measure
from lit_sdpo.report.study import Run, Study

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
    """Claim, the paper's numbers, ours with intervals, verdict and why."""
    counts = {verdict: sum(r.verdict == verdict for r in results) for verdict in SIGNS}
    total = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    rows = [
        [r.claim.id, r.claim.sentence, r.claim.paper, r.setting or "-", _ours(r), badge(r.verdict), r.reason]
        for r in results
    ]
    header = ["", "claim", "the paper", "setting", "here, with 95 % interval", "verdict", "why"]
    return join(
        [
            element(
                "p",
                f"{len(results)} statements: {total}. A claim replicates if the whole interval of every part of it lies on "
                "its side; it does not if an interval lies on the other side or below the smallest effect of interest; "
                "anything else, and fewer than three seeds, is undecided.",
            ),
            table(header, rows, label="Claims", columns=["", "wide", "wide", "", "wide", "", "wide"]),
        ]
    )


def _ours(result: ClaimResult) -> Markup:
    parts = [
        f"{part.part.says}: {shown(part.effect, part.part.measure)}" for part in result.parts if not part.effect.missing
    ]
    return join((element("div", part) for part in parts)) if parts else text("-")


def badge(verdict: Verdict) -> Markup:
    """A verdict as sign, word and colour."""
    return element("span", f"{SIGNS[verdict]} {verdict}", class_=f"verdict {BADGES[verdict]}")


def shown(effect: Effect, measure: Measure) -> str:
    """An effect with its interval, unit and seeds.

    Example:
        >>> shown(Effect(0.1234, 0.1, 0.2, by_seed={0: 0.1, 1: 0.15}), MEASURES["bwt"])
        '0.123 [0.1, 0.2] score, 2 seeds'
    """
    if effect.missing:
        return f"- ({effect.missing})"
    unit = "times" if measure.ratio and effect.null == 1 else measure.unit
    interval = f"[{effect.low:.3g}, {effect.high:.3g}]" if math.isfinite(effect.low) else "no interval"
    return f"{effect.value:.3g} {interval} {unit}".strip() + f", {effect.seeds} seed{'s' * (effect.seeds != 1)}"


def comparisons(
    levels: Mapping[str, Mapping[str, Effect]], found: Sequence[Comparison], methods: Sequence[str]
) -> Markup:
    """Every measure of every method, then all pairs of methods by measure."""
    rows = []
    for name, row in levels.items():
        measure = MEASURES[name]
        better = {1: "more is better", -1: "less is better", 0: ""}[measure.better]
        head = join([measure.title, *([element("div", better, class_="quiet")] if better else [])])
        cells = [_level(row[method]) if method in row else "-" for method in methods]
        rows.append([head, measure.unit or "-", *cells])
    parts: list[Markup] = [
        element("p", "Mean over the seeds with its 95 % interval, over seeds and prompts together."),
        table(["measure", "unit", *methods], rows, label="Measures of every method", columns=["", "", *["number"] * len(methods)]),
    ]  # fmt: skip
    if not found:
        return join([*parts, element("p", "Pairs need runs of two methods or more.", class_="quiet")])
    parts.append(element("h3", "Pairs of methods"))
    parts.append(
        element(
            "p",
            "How much more the first method has than the second (a ratio where the unit is 'times'), paired by seed and, "
            "where evaluations share them, by prompt. p is corrected by Holm over the pairs of a measure; flips: p of all "
            "sign flips of the seeds' differences, which three seeds cannot bring below .25.",
        )
    )
    for k, (_, group) in enumerate(itertools.groupby(found, key=lambda c: c.measure.name)):
        parts.append(_pairs(list(group), opened=k == 0))
    return join(parts)


def _level(effect: Effect) -> Markup:
    if effect.missing:
        return text("-")
    if not math.isfinite(effect.low):
        return text(f"{effect.value:.3g}")
    return join([f"{effect.value:.3g}", element("div", f"[{effect.low:.3g}, {effect.high:.3g}]", class_="quiet")])


def _pairs(group: Sequence[Comparison], *, opened: bool) -> Markup:
    measure = group[0].measure
    rows, decided = [], 0
    for c in group:
        sure = c.verdict.endswith("has more")
        decided += sure
        sign = element("span", f"{'▲' if sure else '?'} {c.verdict}", class_=f"verdict {'yes' if sure else 'open'}")
        p, flips = (f"{x:.3g}" if math.isfinite(x) else "-" for x in (c.p_holm, c.effect.p_flip))
        rows.append([f"{c.more} against {c.less}", shown(c.effect, measure), p, flips, sign])
    header = ["pair", "difference" if not measure.ratio else "ratio", "p", "flips", "verdict"]
    inside = table(header, rows, label=f"Pairs: {measure.title}", columns=["", "whole", "number", "number"])
    summary = element("summary", f"{measure.title}: {decided} of {len(group)} pairs differ")
    return element("details", summary, inside, **({"open": "open"} if opened else {}))


def figure(chart: Chart | Missing) -> Markup:
    """A drawing with title, finding, caption and its files; or the sentence in its place."""
    if isinstance(chart, Missing):
        body = element("p", f"Not drawn: {chart.reason}.")
        return element("div", element("h3", chart.title), body, class_="missing", id=chart.name)
    files = join(element("a", kind.upper(), href=f"figures/{chart.name}.{kind}") for kind in ("csv", "svg", "png"))
    drawing = element("div", Markup(chart.svg()), class_="scroll", tabindex="0", role="region", aria_label=chart.title)
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
