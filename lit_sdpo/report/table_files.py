"""Everything that a study says in numbers, as CSV and Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lit_sdpo.report.claims import ClaimResult, PartResult, PhaseMap
from lit_sdpo.report.comparisons import NOT_REACHED, Comparison, Effect
from lit_sdpo.report.curves import curve_records
from lit_sdpo.report.equal_success import EqualSuccess
from lit_sdpo.report.items import Record, records_csv
from lit_sdpo.report.measures import MEASURES, Measure
from lit_sdpo.report.study import Study

if TYPE_CHECKING:
    from lit_sdpo.report.findings import Findings, StreamFindings

NONE, TIMES = "-", "\u00d7"


def tables(
    findings: Findings,
) -> dict[str, str]:
    """File name to text: ``.md`` to read, ``.csv`` in full precision.

    Tables of methods and pairs have a column ``stream``, and in Markdown a part per stream, where there are several.

    Args:
        findings: From :func:`~lit_sdpo.report.findings.investigate`.
    """
    study, parts = findings.study, findings.streams

    def records(of: Callable[[StreamFindings], list[Record]]) -> str:
        return records_csv([_numbered(part) | record for part in parts for record in of(part)])

    def text(of: Callable[[StreamFindings], str]) -> str:
        return "\n\n".join("\n\n".join(filter(None, [part.stream.heading, of(part)])) for part in parts) + "\n"

    return {
        "claims.md": claims_markdown(findings.claims) + "\n",
        "claims.csv": records_csv(claim_records(findings.claims)),
        "methods.md": text(lambda part: levels_markdown(part.stream.study, part.levels)),
        "methods.csv": records(lambda part: level_records(part.levels)),
        "comparisons.md": text(lambda part: comparisons_markdown(part.comparisons)),
        "comparisons.csv": records(lambda part: comparison_records(part.comparisons)),
        "equal_success.csv": records(lambda part: equal_success_records(part.equal_success)),
        "phase.csv": records_csv(phase_records(findings.phase)),
        "runs.csv": records_csv(run_records(study)),
        "curves.csv": records_csv(
            [{"method": run.method, "seed": run.seed} | each for run in study.all_runs for each in curve_records(run)]
        ),
    }


def _numbered(part: StreamFindings) -> Record:
    return {"stream": part.stream.number} if part.stream.number else {}


def shown(value: float, measure: Measure, *, compared: bool = True) -> str:
    """A value for a reader: three digits, and a ratio with its sign.

    Example:
        >>> shown(4.6, MEASURES["nss"]), shown(-0.0125, MEASURES["bwt"])
        ('4.6×', '-0.0125')
    """
    if math.isnan(value):
        return NONE
    return f"{value:.3g}" + TIMES * (measure.ratio and compared)


def shown_effect(effect: Effect, measure: Measure, *, compared: bool = True) -> str:
    """Value and interval for a reader, and whether all seeds and prompts have that value."""
    if effect.missing:
        return effect.missing if effect.missing.startswith(NOT_REACHED) else NONE
    value, low, high = (shown(x, measure, compared=compared) for x in (effect.value, effect.low, effect.high))
    interval = "" if NONE in (low, high) else f" [{low}, {high}]"
    return f"{value}{interval}{' no spread' * effect.no_spread}"


def shown_with_unit(effect: Effect, measure: Measure) -> str:
    """An effect with its interval, unit and seeds."""
    if effect.missing:
        return f"{NONE} ({effect.missing})"
    unit = "" if measure.ratio and effect.null == 1 else f" {measure.unit}".rstrip()
    return f"{shown_effect(effect, measure)}{unit}, {effect.seeds} seed{'s' * (effect.seeds != 1)}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what would end a cell is escaped.

    Example:
        >>> print(markdown(["a", "b"], [["1|2", "3"]]))
        | a | b |
        | --- | --- |
        | 1&#124;2 | 3 |
    """
    cells = [[" ".join(cell.split()).replace("|", "&#124;") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *cells])


# ------------------------------------------------------------------------------------------------------------- claims
def claims_markdown(results: Sequence[ClaimResult]) -> str:
    """The claims table: claim, setting, the paper's number, ours, verdict and why."""
    rows = []
    for result in results:
        parts = [part for part in result.parts if not part.effect.missing]
        ours = "; ".join(measured(result))
        seeds = sorted({part.effect.seeds for part in parts})
        number = NONE if not seeds else f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        head = [f"{result.claim.id}. {result.claim.sentence}", result.setting or NONE, result.claim.paper]
        rows.append([*head, ours or NONE, number, f"**{result.verdict}**", result.reason])
    return markdown(["claim", "setting", "paper", "here (95 % interval)", "seeds", "verdict", "why"], rows)


def measured(result: ClaimResult) -> list[str]:
    """What was measured of each part of a claim: the measure, its effect with the interval, between which roles."""
    return [f"{part.part.measure.title}: {_part(part)}" for part in result.parts if not part.effect.missing]


def _part(part: PartResult) -> str:
    """The effect and between which roles it is."""
    less = getattr(part.part, "less", None)
    roles = " / ".join(part.part.roles) if part.part.measure.ratio else " - ".join(part.part.roles)
    return f"{shown_effect(part.effect, part.part.measure)} ({roles if less else ', '.join(part.part.roles)})"


def claim_records(results: Sequence[ClaimResult]) -> list[Record]:
    """One record per claim, setting and statement; ``claim_verdict`` is that of all its statements together."""
    records: list[Record] = []
    for result in results:
        head: Record = {
            "claim": result.claim.id,
            "sentence": result.claim.sentence,
            "setting": result.setting,
            "claim_verdict": result.verdict,
            "paper": result.claim.paper,
        }
        for part in result.parts:
            records.append(head | _part_record(part))
        if not result.parts:
            records.append(head | {"verdict": result.verdict, "reason": result.reason})
    return records


def _part_record(part: PartResult) -> Record:
    record: Record = {
        "statement": part.part.says,
        "measure": part.part.measure.name,
        "unit": part.part.measure.unit,
        "roles": " ".join(part.part.roles),
        "smallest": part.part.smallest,
    }
    return record | _effect_record(part.effect) | {"verdict": part.verdict, "reason": part.reason}


def phase_records(found: PhaseMap) -> list[Record]:
    """One record per cell and statement."""
    return [
        {
            "world": cell.world,
            "stages": cell.stages,
            "steps": cell.steps,
            "lr": cell.lr,
            "ratio": cell.ratio,
            **record,
        }
        for cell in found.cells
        for record in claim_records([cell.result])
    ]


# --------------------------------------------------------------------------------------------- methods and their pairs
def levels_markdown(study: Study, table: Mapping[str, Mapping[str, Effect]]) -> str:
    """A row per measure, a column per method: mean over seeds with its interval."""
    seeds = {method: len(study.runs(method)) for method in study.methods}
    header = ["measure", "unit", *(f"{method} ({number})" for method, number in seeds.items())]
    rows = [
        [
            MEASURES[name].title,
            MEASURES[name].unit,
            *(shown_effect(row[method], MEASURES[name], compared=False) for method in seeds),
        ]
        for name, row in table.items()
    ]
    return markdown(header, rows)


def level_records(table: Mapping[str, Mapping[str, Effect]]) -> list[Record]:
    """One record per measure and method."""
    return [
        {"measure": name, "unit": MEASURES[name].unit, "method": method, **_effect_record(effect)}
        for name, row in table.items()
        for method, effect in row.items()
    ]


def comparisons_markdown(comparisons: Sequence[Comparison]) -> str:
    """A row per measure and pair that has a value."""
    rows = [
        [
            each.measure.title,
            f"{each.more} / {each.less}" if each.measure.ratio else f"{each.more} - {each.less}",
            shown_effect(each.effect, each.measure),
            str(each.effect.seeds),
            _p(each.effect.p),
            _p(each.p_holm),
            each.verdict,
        ]
        for each in comparisons
        if not each.effect.missing
    ]
    return markdown(["measure", "pair", "effect (95 % interval)", "seeds", "p", "p (Holm)", "verdict"], rows)


def comparison_records(comparisons: Sequence[Comparison]) -> list[Record]:
    """One record per measure and pair; ``p_holm`` is corrected over the pairs of the measure."""
    return [
        {
            **_pair_record(each),
            **_effect_record(each.effect),
            "p_holm": each.p_holm,
            "verdict": each.verdict,
        }
        for each in comparisons
    ]


def equal_success_records(found: Sequence[EqualSuccess]) -> list[Record]:
    """One record per measure and pair; ``steps`` are those of both methods, by seed."""
    return [
        {
            **_pair_record(each),
            "reward": each.reward,
            "steps": " ".join(f"{seed}:{one}/{other}" for seed, (one, other) in each.steps.items()),
            **_effect_record(each.effect),
        }
        for each in found
    ]


def _pair_record(each: Comparison | EqualSuccess) -> Record:
    """What is compared, of which two methods."""
    return {
        "measure": each.measure.name,
        "unit": each.measure.unit,
        "more": each.more,
        "less": each.less,
        "kind": "ratio" if each.measure.ratio else "difference",
    }


def run_records(study: Study) -> list[Record]:
    """One record per run: its settings and every measure."""
    return [
        {
            "method": run.method,
            "seed": run.seed,
            "folder": run.origin or str(run.folder),
            **study.settings(run),
            **{name: measure.value(run) for name, measure in MEASURES.items()},
        }
        for run in study.all_runs
    ]


def _effect_record(effect: Effect) -> Record:
    return {
        "value": effect.value,
        "low": effect.low,
        "high": effect.high,
        "seeds": effect.seeds,
        "by_seed": " ".join(f"{seed}:{value!r}" for seed, value in effect.by_seed.items()),
        "p": effect.p,
        "p_flip": effect.p_flip,
        "no_spread": effect.no_spread or None,
        "missing": effect.missing,
    }


def _p(p: float) -> str:
    if math.isnan(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
