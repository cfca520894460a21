"""The check itself: goes through sources once, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lit_sdpo.data.check.overlap import OverlapFinder
from lit_sdpo.data.check.pairs import PairFinder
from lit_sdpo.data.check.report import Finding, Group, Report
from lit_sdpo.data.readers import Entry, scan
from lit_sdpo.data.records import BadRowError
from lit_sdpo.data.source import Source
from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.likelihood.rows import Parse, scored_row
from lit_sdpo.likelihood.rows import scan as scan_scored
from lit_sdpo.rewards.registry import CONTRACTS
from lit_sdpo.rewards.registry import verifier as find_verifier

#: Prompts whose lengths are measured at once.
BATCH = 64
_FORMATS = {"math_boxed": "\\boxed", "mcq_boxed": "\\boxed", "mcq_xml": "<answer>", "tooluse_react": "Action"}


Measure = Callable[[Sequence[Row]], tuple[list[int], dict[int, str]]]


@dataclass(frozen=True)
class Part:
    """A source with the task and split it is for; where these are empty, its rows say them.

    Attributes:
        source: Where the rows come from.
        task: The task.
        split: ``train``, ``validation`` or ``test``.
    """

    source: Source
    task: str = ""
    split: str = ""


@dataclass
class Checker:
    """Collects what is wrong with rows.

    Args:
        measure: Lengths of those prompts that a template can write, in tokens, and what it says of the others, by
            their index; ``None`` counts characters and checks no budget.
        size: Length of a text that is no chat prompt, in the same unit.
        max_prompt_tokens: The longest prompt that is allowed.
        answers: Put each row's reference to its own verifier.
        overlap: Compares training with evaluated prompts.
        pairs: Compares the answers of different rows, where that is asked for.
        rewarded: Whether rewards judge rows that name no verifier; ``None`` where that is not known.
    """

    measure: Measure | None = None
    size: Callable[[str], int] = len
    max_prompt_tokens: int | None = None
    answers: bool = True
    overlap: OverlapFinder = field(default_factory=OverlapFinder)
    pairs: PairFinder | None = None
    rewarded: bool | None = None

    def __post_init__(self) -> None:
        share = self.overlap.share
        self.report = Report(
            unit="tokens" if self.measure else "characters",
            max_prompt_tokens=self.max_prompt_tokens if self.measure else None,
            rule="the same words" + (f", or {share:.0%} of the {self.overlap.ngram}-grams" if share else ""),
        )
        self._groups: dict[tuple[str, str], Group] = {}
        self._ids: dict[tuple[str, str], dict[str, str]] = {}
        self._places: dict[bool, list[str]] = {True: [], False: []}
        self._ready: dict[str, str] = {}
        self._unasked: dict[str, int] = {}
        self._unjudged: dict[str, list[str]] = {}
        self._waiting: list[tuple[Group, str, Row]] = []

    def read(self, part: Part) -> None:
        """Check all rows of a source; one that cannot be read is a finding too."""
        try:
            for entry in scan(part.source, "train" if part.split in ("", "train") else "test"):
                self._entry(part, entry)
        except UserError as error:
            self.report.findings.append(Finding("source", error.where or str(part.source), error.what, error.fix))

    def rows(self, task: str, split: str, rows: Iterable[Row]) -> None:
        """Check rows that come from no file, such as those of a generated task."""
        for row in rows:
            place = f"{task} ({split}), row {row.id!r}"
            self._row(self._group(task, split), row, place, f"{task} ({split})", evaluated=split != "train")

    def likelihood(self, part: Part, parse: Parse = scored_row) -> None:
        """Check rows that are scored by likelihood: no verifier judges them, and no training prompt may hold them.

        Args:
            part: Where they come from.
            parse: Makes a row from its id and fields.
        """
        group = self._group(part.task or str(part.source), part.split or "validation")
        group.layouts[str(part.source)] = "likelihood"
        try:
            for entry in scan_scored(part.source, parse):
                if entry.row is None:
                    self._problem(entry.place, entry.problem)
                    continue
                group.rows += 1
                self._places[True].append(entry.place)
                self.overlap.add(entry.row.said, evaluated=True)
                group.lengths.append(self.size(entry.row.said))
        except UserError as error:
            self.report.findings.append(Finding("source", error.where or str(part.source), error.what, error.fix))

    def finish(self) -> tuple[Report, set[str]]:
        """The report, and the places of the training rows that are evaluated too."""
        self._measure()
        report = self.report
        repeated: set[str] = set()
        for found in self.overlap.find():
            repeated.add(self._places[False][found.train])
            test = self._places[True][found.test]
            what = (
                f"the prompt is that of {test}" if found.same else f"{found.share:.0%} of {test} stands in the prompt"
            )
            kind = "duplicate" if found.same else "alike"
            fix = "leave it out (--write-deduplicated)"
            report.findings.append(Finding(kind, self._places[False][found.train], what, fix))
        for group in self._groups.values():
            for why, count in group.unchecked.items():
                report.notes.append(f"{group.task}, {group.split}: {count} answers not checked: {why}")
        for name, count in self._unasked.items():
            report.notes.append(f"{count} prompts do not name the answer format of {name} ({_FORMATS[name]})")
        for source, places in self._unjudged.items():
            what = f"{len(places)} rows have no verifier"
            fix = "name one (verifier: math_boxed), or functions that reward completions (rollout.rewards)"
            if self.rewarded is False:
                report.findings.append(Finding("verifier", places[0], f"{what}, and there are no rewards", fix))
            else:
                report.notes.append(f"{source}: {what}: rewards judge them (rollout.rewards)")
        report.groups = list(self._groups.values())
        if self.pairs is not None:
            report.pairs = list(self.pairs.find())
        if not report.groups and not report.findings:
            report.findings.append(Finding("source", "all sources", "there are no rows", "give files with rows"))
        return report, repeated

    def _entry(self, part: Part, entry: Entry) -> None:
        task, split = part.task or entry.task or str(part.source), part.split or entry.split or "train"
        if entry.problem is not None:
            self._problem(entry.place, entry.problem)
            return
        group = self._group(task, split)
        if entry.layout is not None:
            how = "recognised" if entry.layout.recognised else "as named"
            group.layouts.setdefault(str(part.source), f"{entry.layout.name} ({how})")
        if entry.row is None:
            group.left_out += 1
        else:
            if not entry.row.verifier:
                self._unjudged.setdefault(str(part.source), []).append(entry.place)
            self._row(group, entry.row, entry.place, str(part.source), evaluated=split != "train")

    def _problem(self, place: str, problem: BadRowError | None) -> None:
        assert problem is not None
        error = problem.at(place)
        self.report.findings.append(Finding("row", error.where, error.what, error.fix))

    def _group(self, task: str, split: str) -> Group:
        return self._groups.setdefault((task, split), Group(task, split))

    def _row(self, group: Group, row: Row, place: str, source: str, *, evaluated: bool) -> None:
        group.rows += 1
        ids = self._ids.setdefault((group.task, group.split), {})
        if row.id in ids:
            what = f"the id {row.id!r} stands at {ids[row.id]} too"
            self.report.findings.append(Finding("id", place, what, "give every row an id of its own"))
        ids.setdefault(row.id, place)
        self._places[evaluated].append(place)
        prompt = "\n".join(message["content"] for message in row.messages)
        self.overlap.add("\n".join(m["content"] for m in row.messages if m["role"] != "system"), evaluated=evaluated)
        if (mark := _FORMATS.get(row.verifier)) and mark not in prompt:
            self._unasked[row.verifier] = self._unasked.get(row.verifier, 0) + 1
        if self.measure is None:
            group.lengths.append(len(prompt))
        else:
            self._waiting.append((group, place, row))
            if len(self._waiting) == BATCH:
                self._measure()
        if self.answers:
            self._answer(group, row, place)
        if self.pairs is not None and not self._missing(row.verifier):
            self.pairs.add(source, place, row)

    def _measure(self) -> None:
        if self.measure is None or not self._waiting:
            return
        lengths, refused = self.measure([row for _, _, row in self._waiting])
        for number, what in refused.items():
            fix = "mend the row or the template, or leave such rows out (on_bad_row: skip)"
            self.report.findings.append(Finding("template", self._waiting[number][1], what, fix))
        written = [entry for number, entry in enumerate(self._waiting) if number not in refused]
        for (group, place, _), length in zip(written, lengths, strict=True):
            group.lengths.append(length)
            if self.max_prompt_tokens is not None and length > self.max_prompt_tokens:
                what = f"the prompt has {length} tokens, more than max_prompt_tokens = {self.max_prompt_tokens}"
                self.report.findings.append(Finding("length", place, what, "raise the limit or leave the row out"))
        self._waiting.clear()

    def _answer(self, group: Group, row: Row, place: str) -> None:
        self._nothing(row, place)
        if row.reference is None:
            group.unchecked["the rows hold no correct completion"] += 1
            return
        if missing := self._missing(row.verifier):
            group.unchecked[missing] += 1
            return
        verdict = find_verifier(row.verifier)(row.reference, row)
        if verdict.score is None:
            group.unchecked[f"verifier {row.verifier} abstains ({', '.join(verdict.flags)})"] += 1
            return
        group.checked += 1
        if verdict.score < 1.0:
            what = f"{row.verifier} refuses the row's own answer ({verdict.feedback or 'no reason given'})"
            self.report.findings.append(Finding("answer", place, what, "mend the ground truth, or name its verifier"))

    def _nothing(self, row: Row, place: str) -> None:
        """Whether a verifier of the user's own takes any answer; contracts refuse such rows when they are read."""
        if row.verifier in CONTRACTS or self._missing(row.verifier):
            return
        if (find_verifier(row.verifier)("", row).score or 0.0) >= 1.0:
            what, fix = f"{row.verifier} takes an empty answer for right", "mend the ground truth, or the verifier"
            self.report.findings.append(Finding("answer", place, what, fix))

    def _missing(self, name: str) -> str:
        """What a verifier lacks on this machine, or nothing."""
        if name not in self._ready:
            try:
                getattr(find_verifier(name), "prepare", lambda: None)()
                self._ready[name] = ""
            except UserError as error:
                self._ready[name] = str(error)
        return self._ready[name]
