"""What the runs of a stream say, in a few sentences and one table: the first thing that a reader sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from lit_sdpo.report.comparisons import ENOUGH_SEEDS, Comparison, Effect
from lit_sdpo.report.findings import StreamFindings
from lit_sdpo.report.measures import MEASURES
from lit_sdpo.report.table_files import shown_effect

#: More names than this are counted.
MOST_NAMES = 4
#: Measures of the table, with their titles there.
COLUMNS = {
    "average_accuracy": "average at the end",
    "learning_accuracy": "after its own stage",
    "forgetting": "forgetting",
    "ood_change": "probes (points)",
    "prior_change": "prior ability (points)",
}
#: Measures of what was there before, and what that is.
KEPT = {
    "forgetting": "What earlier stages taught",
    "ood_change": "Probes, which no stage trains",
    "prior_change": "The base's prior ability",
}


def verdict(found: StreamFindings) -> list[str]:
    """What was learned, what was lost, and which methods can be told apart, a sentence each.

    A number is called more or less than nothing where its 95 % interval says so, two methods are told apart where the
    p-value, corrected over all pairs of the stream, is below 0.05.
    """
    return [_learned(found), *(sentence for name in KEPT for sentence in _kept(found, name)), *_seeds(found)]


def summary_rows(found: StreamFindings) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of all methods: before and at the end, forgetting, probes; the best comes first."""
    named = {name: title for name, title in COLUMNS.items() if name in found.levels}
    ends = found.levels.get("average_accuracy", {})
    methods = list(found.stream.runs)
    if _better(found):
        methods.sort(key=lambda method: -_better(found) * _value(ends.get(method)))
    rows = []
    for method in methods:
        cells = [_shown(name, found.levels[name].get(method)) for name in named]
        rows.append([method, f"{base_score(found, method):.3f}", *cells])
    return ["method", "base", *named.values()], rows


def base_score(found: StreamFindings, method: str) -> float:
    """Mean score on the stream's tasks before training, over tasks and seeds."""
    runs = found.stream.runs[method]
    return fmean([run.matrix.score(0, task) for run in runs for task in run.matrix.tasks] or [math.nan])


def _better(found: StreamFindings) -> int:
    """1 where more is better on every task of the stream, -1 where less is, 0 where they mix."""
    signs = {int(found.stream.matrix.sign(task)) for task in found.stream.matrix.tasks}
    return signs.pop() if len(signs) == 1 else 0


def _learned(found: StreamFindings) -> str:
    better, ends = _better(found), found.levels.get("average_accuracy", {})
    known = {method: effect for method, effect in ends.items() if not effect.missing}
    if not known:
        return "No score at the end is known."
    word = "average loss" if better < 0 else "average score"
    if len(found.stream.runs) == 1:
        ((method, effect),) = known.items()
        return f"{method}: {word} on the stream's tasks {_from(found, method)}{_shown('average_accuracy', effect)}."
    if not better:
        return "The tasks mix scores and losses, so no method is best on average."
    best = max(known, key=lambda method: better * known[method].value)
    lead = f"Best at the end: {best}, {word} {_from(found, best)}{_shown('average_accuracy', known[best])}"
    return f"{lead}. {_apart(best, [c for c in found.comparisons if c.measure.name == 'average_accuracy'])}"


def _from(found: StreamFindings, method: str) -> str:
    base = base_score(found, method)
    return f"from {base:.3f} to " if math.isfinite(base) else ""


def _apart(best: str, pairs: Sequence[Comparison]) -> str:
    """Of which methods the best one is ahead by more than chance."""
    others = {c.less if c.more == best else c.more: c for c in pairs if best in (c.more, c.less)}
    told = [name for name, c in others.items() if c.verdict.endswith("has more")]
    rest = [name for name in others if name not in told]
    if not told:
        return "Beyond chance it is ahead of no other method."
    return f"Beyond chance it is ahead of {_names(told)}" + (f"; not of {_names(rest)}." if rest else ".")


def _kept(found: StreamFindings, name: str) -> list[str]:
    """What happened to one kind of what was there: nothing, if the runs do not have it."""
    known = {method: effect for method, effect in found.levels.get(name, {}).items() if not effect.missing}
    if not known:
        return []
    better, unit = MEASURES[name].better, " points" if MEASURES[name].unit == "points" else ""
    shown = {method: f"{_shown(name, effect)}{unit}" for method, effect in known.items()}
    if len(found.stream.runs) == 1:
        ((method, effect),) = known.items()
        lost, gained = (effect.high < 0, effect.low > 0) if better > 0 else (effect.low > 0, effect.high < 0)
        said = "lost" if lost else "gained" if gained else "no change beyond chance"
        if math.isnan(effect.low):
            said = "no interval, so a change may be chance"
        return [f"{KEPT[name]}: {said}, {MEASURES[name].title} {shown[method]}."]
    first, last = (pick(known, key=lambda m: better * known[m].value) for pick in (max, min))
    ends = f"kept best by {first} ({MEASURES[name].title} {shown[first]}), worst by {last} ({shown[last]})"
    return [f"{KEPT[name]}: {ends}."]


def _seeds(found: StreamFindings) -> list[str]:
    fewest = min(map(len, found.stream.runs.values()))
    if fewest >= ENOUGH_SEEDS:
        return []
    about = "what other seeds would give" if len(found.stream.runs) == 1 else "which method is better"
    return [f"With {fewest} seed{'s' * (fewest != 1)} nothing is decided about {about}: {ENOUGH_SEEDS} are needed."]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _value(effect: Effect | None) -> float:
    return -math.inf if effect is None or effect.missing else effect.value


def _shown(name: str, effect: Effect | None) -> str:
    return "-" if effect is None else shown_effect(effect, MEASURES[name], compared=False)
