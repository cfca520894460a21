"""The parts of a report's page that are about one stream: what it says in short, and how its methods compare."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from lit_sdpo.report.charts.streams import Stream
from lit_sdpo.report.comparisons import Comparison, Effect
from lit_sdpo.report.equal_success import EqualSuccess
from lit_sdpo.report.findings import StreamFindings
from lit_sdpo.report.html import Markup, element, join, table
from lit_sdpo.report.measures import MEASURES, Measure
from lit_sdpo.report.sections import figure
from lit_sdpo.report.table_files import TIMES, shown_effect, shown_with_unit
from lit_sdpo.report.verdict import summary_rows, verdict

#: With so few methods all measures stand in one table.
FEW_METHODS = 3
#: With more pairs only those that differ are listed.
MOST_PAIRS = 60


def in_short(found: StreamFindings) -> Markup:
    """What the runs of a stream say: sentences, a table of its methods, and the matrix."""
    stream = found.stream
    parts = [element("h3", stream.heading)] if stream.number else []
    parts.append(element("ul", *(element("li", sentence) for sentence in verdict(found))))
    if len(stream.runs) > 1:
        header, rows = summary_rows(found)
        parts.append(
            table(header, rows, label=stream.title("Methods in short"), columns=["", *["whole"] * (len(header) - 1)])
        )
    return element("div", *parts, figure(found.matrix), class_="short")


def stream_comparisons(found: StreamFindings) -> Markup:
    """Measures, pairs and pairs at equal success of one stream; runs of two streams are never compared."""
    body = comparisons(found.levels, found.comparisons, list(found.stream.runs), found.stream)
    matched = [equal_success(found.equal_success, found.stream)] if found.equal_success else []
    return join([element("h3", found.stream.heading or "All runs"), body, *matched])


def comparisons(
    levels: Mapping[str, Mapping[str, Effect]], found: Sequence[Comparison], methods: Sequence[str], stream: Stream
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
        table(
            ["measure", "unit", *methods],
            rows,
            label=stream.title("Measures"),
            columns=["", "", *["number"] * len(methods)],
        ),
    ]
    if not found:
        return join([*parts, element("p", "Pairs need runs of two methods or more in a stream.", class_="quiet")])
    parts.append(element("h4", "Pairs of methods"))
    parts.append(
        element(
            "p",
            f"How much more the first method has than the second ({TIMES} marks a ratio), paired by seed and, where "
            "evaluations share them, by prompt. p is corrected by Holm over the pairs of a measure; flips: p of all "
            "sign flips of the seeds' differences, which three seeds cannot bring below .25.",
        )
    )
    if len(methods) <= FEW_METHODS:
        return join([*parts, _pairs_table(found, stream.title("Pairs"), with_measure=True)])
    for k, (_, group) in enumerate(itertools.groupby(found, key=lambda c: c.measure.name)):
        parts.append(_pairs(list(group), stream, opened=k == 0))
    return join(parts)


def equal_success(found: Sequence[EqualSuccess], stream: Stream) -> Markup:
    """Pairs of methods where their training reward is the same, whenever each of them gets there."""
    known = [each for each in found if not each.effect.missing]
    reasons = dict.fromkeys(each.effect.missing for each in found if each.effect.missing)
    parts = [
        element("h4", "At equal training reward"),
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
                shown_with_unit(each.effect, each.measure),
            ]
            for each in known
        ]
        header = ["pair", "measure", "reward", "difference or ratio"]
        parts.append(
            table(
                header, rows, label=stream.title("Pairs at equal training reward"), columns=["", "", "number", "whole"]
            )
        )
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


def _pairs(group: Sequence[Comparison], stream: Stream, *, opened: bool) -> Markup:
    """All pairs in one measure, behind a line that says how many differ."""
    measure = group[0].measure
    decided = [c for c in group if _differs(c)]
    listed = group if len(group) <= MOST_PAIRS else decided
    summary = element("summary", f"{measure.title}: {len(decided)} of {len(group)} pairs differ")
    rest = "" if listed is group else element("p", "The others are in tables/comparisons.csv.", class_="quiet")
    inside = _pairs_table(listed, stream.title(f"Pairs: {measure.title}"))
    return element("details", summary, inside, rest, **({"open": "open"} if opened else {}))


def _pairs_table(group: Sequence[Comparison], label: str, *, with_measure: bool = False) -> Markup:
    rows = []
    for c in group:
        sign, look = ("▲", "yes") if _differs(c) else ("?", "open")
        verdict = element("span", f"{sign} {c.verdict}", class_=f"verdict {look}")
        p, flips = (f"{x:.3g}" if math.isfinite(x) else "-" for x in (c.p_holm, c.effect.p_flip))
        head = [c.measure.title] if with_measure else []
        rows.append([*head, f"{c.more} against {c.less}", shown_with_unit(c.effect, c.measure), p, flips, verdict])
    extra = ["measure"] if with_measure else []
    header = [*extra, "pair", "difference or ratio", "p", "flips", "verdict"]
    return table(header, rows, label=label, columns=["" for _ in extra] + ["", "whole", "number", "number"])


def _differs(comparison: Comparison) -> bool:
    return comparison.verdict.endswith("has more")
