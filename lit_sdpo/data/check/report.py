"""What a check has found, as text and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lit_sdpo.data.check.pairs import PairReport

#: Findings of one kind that the text shows.
SHOWN = 20
#: Characters of an answer that the text shows.
SHORT = 80
_BAR = 40


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: ``row``, ``id``, ``answer``, ``length``, ``template``, ``verifier``, ``duplicate``, ``alike`` or
            ``source``.
        where: File and line.
        what: What is wrong.
        fix: What would be right.
    """

    kind: str
    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f" {self.fix[0].upper()}{self.fix[1:]}." if self.fix else ""
        return f"{self.where}: {self.what.rstrip('.')}.{fix}"


@dataclass
class Group:
    """The rows of one task and split.

    Attributes:
        task: The task.
        split: ``train``, ``validation`` or ``test``.
        rows: Rows that fit.
        left_out: Entries that the layout leaves out on purpose.
        layouts: Layout of each source, and whether it was recognised or named.
        lengths: Length of each row's prompt.
        checked: Answers that were put to their own verifier.
        unchecked: Why other answers were not, and how many.
    """

    task: str
    split: str
    rows: int = 0
    left_out: int = 0
    layouts: dict[str, str] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    checked: int = 0
    unchecked: Counter = field(default_factory=Counter)

    def quantile(self, share: float) -> int:
        """The length that this share of the rows does not exceed (nearest rank)."""
        ordered = sorted(self.lengths)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0

    def histogram(self) -> list[tuple[int, int, int]]:
        """Lower bound, upper bound (exclusive) and count of classes whose bounds double.

        Example:
            >>> Group("t", "train", lengths=[3, 70, 90, 300]).histogram()
            [(0, 64, 1), (64, 128, 2), (128, 256, 0), (256, 512, 1)]
        """
        counts = Counter(max(0, length.bit_length() - 6) for length in self.lengths)
        if not counts:
            return []
        classes = range(min(counts), max(counts) + 1)
        return [(0 if i == 0 else 32 << i, 64 << i, counts[i]) for i in classes]


@dataclass
class Report:
    """Everything a check has found.

    Attributes:
        groups: Counts and lengths by task and split.
        findings: What is wrong.
        notes: What is worth knowing and not wrong.
        unit: What lengths are counted in: ``tokens`` or ``characters``.
        max_prompt_tokens: The longest prompt that is allowed.
        rule: How prompts were compared.
        pairs: Which different answers are judged equal, by source; empty unless that was asked for.
    """

    groups: list[Group] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unit: str = "characters"
    max_prompt_tokens: int | None = None
    rule: str = ""
    pairs: list[PairReport] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        groups = [
            {
                "task": group.task,
                "split": group.split,
                "rows": group.rows,
                "left_out": group.left_out,
                "layouts": group.layouts,
                "answers_checked": group.checked,
                "answers_unchecked": dict(group.unchecked),
                "lengths": {
                    "unit": self.unit,
                    **{name: group.quantile(share) for name, share in _QUANTILES.items()},
                    "histogram": group.histogram(),
                },
            }
            for group in self.groups
        ]
        return {
            "ok": not self.findings,
            "max_prompt_tokens": self.max_prompt_tokens,
            "groups": groups,
            "findings": [asdict(finding) for finding in self.findings],
            "counts": dict(Counter(finding.kind for finding in self.findings)),
            "notes": self.notes,
            "rule": self.rule,
            "pairs": [asdict(report) for report in self.pairs],
        }

    def text(self) -> str:
        """The report for people."""
        return "\n".join([*self._tables(), *self._list()])

    def _tables(self) -> Iterator[str]:
        width = max((len(group.task) for group in self.groups), default=4)
        names = "".join(f"{name:>8}" for name in _QUANTILES)
        yield f"{'task':<{width}}  {'split':<10} {'rows':>7} {'answers':>8}{names}  ({self.unit} of a prompt)"
        for group in self.groups:
            numbers = "".join(f"{group.quantile(share):>8}" for share in _QUANTILES.values())
            yield f"{group.task:<{width}}  {group.split:<10} {group.rows:>7} {group.checked:>8}{numbers}"
        for group in self.groups:
            yield f"\n{group.task}, {group.split}: {self.unit} of a prompt"
            yield from _bars(group.histogram())

    def _list(self) -> Iterator[str]:
        yield ""
        for group in self.groups:
            for source, layout in group.layouts.items():
                yield f"{source}: layout {layout}" + (f", {group.left_out} left out by it" if group.left_out else "")
        yield from (f"\nnote: {note}" for note in self.notes)
        yield from _pairs(self.pairs)
        counts = Counter(finding.kind for finding in self.findings)
        for kind, count in counts.items():
            alike: dict[tuple[str, str, str], list[Finding]] = {}
            for finding in self.findings:
                if finding.kind == kind:
                    field = finding.where.partition(", field")[2]
                    alike.setdefault((finding.what, finding.fix, field), []).append(finding)
            yield f"\n{_TITLES[kind]}: {count}"
            shown = list(alike.values())[:SHOWN]
            for same in shown:
                yield f"  {same[0]}" + (f" So {len(same) - 1} more." if len(same) > 1 else "")
            if (left := count - sum(map(len, shown))) > 0:
                yield f"  ... and {left} more (--json lists all)"
        rows = sum(group.rows for group in self.groups)
        found = len(self.findings)
        yield f"\n{rows} rows, " + (f"{found} finding{'s' * (found > 1)}" if found else "nothing wrong")


_QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
_TITLES = {
    "source": "sources that cannot be read",
    "row": "rows that do not fit",
    "id": "ids that occur twice",
    "answer": "answers that their own verifier refuses",
    "length": "prompts that are too long",
    "template": "prompts that the chat template cannot write",
    "verifier": "rows that nobody judges",
    "duplicate": "training prompts that are evaluated too",
    "alike": "training prompts that are much like evaluated ones",
}


def _pairs(reports: Sequence[PairReport]) -> Iterator[str]:
    for report in reports:
        drawn = f"{report.compared:,}" + (f" of {report.possible:,}" if report.compared < report.possible else "")
        abstained = f", {report.abstained:,} abstained on" if report.abstained else ""
        yield (
            f"\n{report.source}: {report.answers:,} different answers, {drawn} pairs put to {report.verifier},"
            f" {len(report.equal):,} judged equal{abstained}"
        )
        yield from (
            f"  {_short(pair.given)}  =  {_short(pair.truth)}  ({pair.first}; {pair.second})" for pair in report.equal
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= SHORT else text[: SHORT - 3] + "...")


def _bars(classes: Sequence[tuple[int, int, int]]) -> Iterator[str]:
    most = max((count for *_, count in classes), default=0)
    for low, high, count in classes:
        yield f"  {low:>6} - {high - 1:<6} {'#' * math.ceil(_BAR * count / most):<{_BAR}} {count}"
