"""A claim is a few statements about methods; intervals decide each, and all of them together the claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lit_sdpo.errors import UserError
from lit_sdpo.report.comparisons import ENOUGH_SEEDS, Draws, Effect, effect
from lit_sdpo.report.measures import Measure
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study, stream_key

Verdict = Literal["replicates", "does not", "undecided", "not tested at this scale"]
REPLICATES: Verdict = "replicates"
DOES_NOT: Verdict = "does not"
UNDECIDED: Verdict = "undecided"
NOT_TESTED: Verdict = "not tested at this scale"

#: Role to its runs.
Cast = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Contrast:
    """``measure`` is larger with one role than with another.

    Attributes:
        says: The statement in words.
        measure: What is compared.
        more: Role that is said to have more.
        less: Role that is said to have less; ``None`` for no effect at all, 0.
        smallest: Smallest effect of interest, in the measure's unit; of a ratio, what it exceeds 1 by.
    """

    says: str
    measure: Measure
    more: str
    less: str | None
    smallest: float

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that it needs."""
        return (self.more,) if self.less is None else (self.more, self.less)

    def effect(self, cast: Cast, draws: Draws) -> Effect:
        """How much more there is."""
        return effect(self.measure, cast[self.more], None if self.less is None else cast[self.less], draws)


@dataclass(frozen=True)
class Crossing:
    """Of two roles neither is best everywhere: one is better on some task, the other on another.

    The effect is the smaller of two leads: the first role's where it leads most, and the second's where that leads
    most. Its interval comes from the tasks' intervals, widened by Bonferroni so that all hold together.

    Attributes:
        says: The statement in words.
        measure_of: Task to the measure, more of which is better.
        one: A role.
        other: The other role.
        smallest: Smallest lead of interest, in the measure's unit.
    """

    says: str
    measure_of: Callable[[str], Measure]
    one: str
    other: str
    smallest: float

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that it needs."""
        return self.one, self.other

    @property
    def measure(self) -> Measure:
        """That of any task, for its title and unit."""
        return self.measure_of("a task")

    def effect(self, cast: Cast, draws: Draws) -> Effect:
        """The smaller of the two leads."""
        tasks = cast[self.one][0].matrix.tasks
        confidence = 1 - 0.05 / max(1, len(tasks))
        found = [
            effect(self.measure_of(task), cast[self.one], cast[self.other], draws, confidence=confidence)
            for task in tasks
        ]
        known = [each for each in found if not each.missing]
        if len(known) < 2:
            return Effect(missing="fewer than two tasks were measured")
        seeds = sorted(set.intersection(*(set(each.by_seed) for each in known)))
        leads = {seed: [each.by_seed[seed] for each in known] for seed in seeds}
        values, lows, highs = ([getattr(each, end) for each in known] for end in ("value", "low", "high"))
        return Effect(
            value=_smaller_lead(values, values),
            low=_smaller_lead(lows, highs),
            high=_smaller_lead(highs, lows),
            by_seed={seed: _smaller_lead(leads[seed], leads[seed]) for seed in seeds},
        )


def _smaller_lead(ones: Sequence[float], others: Sequence[float]) -> float:
    """Of the first role where it leads most, from ``ones``, and of the second, from ``others``."""
    return min(max(ones), max(-x for x in others))


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        id: ``C1`` to ``C14``; a claim of two statements that can hold apart has two entries.
        sentence: What is claimed.
        paper: The paper's own numbers.
        parts: Statements that must all hold.
        untested: Why it cannot be tested here; then it has no parts.
    """

    id: str
    sentence: str
    paper: str
    parts: tuple[Contrast | Crossing, ...] = ()
    untested: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that its parts need."""
        return tuple(dict.fromkeys(role for part in self.parts for role in part.roles))


@dataclass(frozen=True)
class PartResult:
    """What the runs say about a part.

    Attributes:
        part: The part.
        effect: Its effect.
        verdict: Whether it holds.
        reason: Why, in one sentence.
    """

    part: Contrast | Crossing
    effect: Effect
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class ClaimResult:
    """What the runs say about a claim.

    Attributes:
        claim: The claim.
        setting: At which settings, such as ``matched rate``.
        verdict: Whether it holds.
        reason: Why, in one sentence.
        parts: Of its parts.
    """

    claim: Claim
    setting: str
    verdict: Verdict
    reason: str
    parts: tuple[PartResult, ...] = ()


def judge(effect: Effect, smallest: float) -> tuple[Verdict, str]:
    """Verdict and reason of a statement that there is an effect of interest, from its 95 % interval alone.

    It *replicates* if the whole interval is at or above the smallest effect of interest (of a ratio: 1 and that). It
    *does not* if the whole interval is below. Else, and with fewer than three seeds, it is *undecided*.

    Example:
        >>> judge(Effect(0.2, 0.1, 0.3, by_seed={0: 0.2, 1: 0.2, 2: 0.2}), 0.05)[0]
        'replicates'
        >>> judge(Effect(0.2, 0.01, 0.4, by_seed={0: 0.2, 1: 0.2, 2: 0.2}), 0.05)[0]
        'undecided'
    """
    if effect.missing:
        return NOT_TESTED, f"{effect.missing[0].upper()}{effect.missing[1:]}."
    if effect.seeds < ENOUGH_SEEDS:
        number = "1 seed" if effect.seeds == 1 else f"{effect.seeds} seeds"
        return UNDECIDED, f"Undecided: {number}, and at least {ENOUGH_SEEDS} are needed."
    if math.isnan(effect.low) or math.isnan(effect.high):
        return UNDECIDED, "All seeds agree exactly, so nothing is known of their spread: there is no interval."
    low, high, least = (f"{x:.3g}" for x in (effect.low, effect.high, effect.null + smallest))
    interval = f"The interval {low} to {high}"
    if effect.low >= effect.null + smallest:
        return REPLICATES, f"{interval} lies above {least}."
    if effect.high < effect.null:
        return DOES_NOT, f"{interval} lies below {effect.null:g}: the effect is the other way round."
    if effect.high < effect.null + smallest:
        return DOES_NOT, f"{interval} excludes {least} or more."
    if effect.low > effect.null:
        return UNDECIDED, f"{interval} lies above {effect.null:g} and holds less and more than {least}."
    return UNDECIDED, f"{interval} holds both {effect.null:g} and {least} or more."


def check(claim: Claim, cast: Cast, setting: str, draws: Draws | None = None) -> ClaimResult:
    """Judge a claim.

    All parts must replicate; one that does not decides against it; else it is undecided.

    Args:
        claim: What is claimed.
        cast: Role to its runs; a role may be missing or without runs.
        setting: At which settings these runs are, for a reader.
        draws: Where values are kept.
    """
    if claim.untested:
        return ClaimResult(claim, setting, NOT_TESTED, claim.untested)
    draws = draws or Draws()
    parts = tuple(_check_part(part, cast, draws) for part in claim.parts)
    for verdict in (DOES_NOT, UNDECIDED, NOT_TESTED, REPLICATES):
        of_this = [part for part in parts if part.verdict == verdict]
        if not of_this:
            continue
        if verdict == NOT_TESTED and len(of_this) < len(parts):
            verdict = UNDECIDED
        reasons = dict.fromkeys(part.reason for part in of_this)
        if len(parts) > 1 and verdict != NOT_TESTED:
            reasons = dict.fromkeys(f"{part.part.says}: {part.reason}" for part in of_this)
        return ClaimResult(claim, setting, verdict, " ".join(reasons), parts)
    raise AssertionError("a claim has parts or a reason not to")


def _check_part(part: Contrast | Crossing, cast: Cast, draws: Draws) -> PartResult:
    if absent := sorted(role for role in part.roles if not cast.get(role)):
        missing = Effect(missing=f"no runs of {' and '.join(absent)} at these settings")
        return PartResult(part, missing, *judge(missing, part.smallest))
    if len({stream_key(run) for role in part.roles for run in cast[role]}) > 1:
        missing = Effect(missing=f"the runs of {' and '.join(part.roles)} have different streams or bases")
        return PartResult(part, missing, *judge(missing, part.smallest))
    found = part.effect(cast, draws)
    return PartResult(part, found, *judge(found, part.smallest))


def cast_of(study: Study, roles: Iterable[str], names: Mapping[str, str] | None = None) -> dict[str, list[Run]]:
    """The runs of each role.

    Args:
        study: The runs.
        roles: The roles.
        names: Role to the method that plays it. Default: the method of its name, or the only one whose name ends in it
            behind a ``/``.

    Returns:
        Role to runs, empty where no method plays it.

    Raises:
        UserError: A named method is not in the study.
    """
    cast, names = {}, names or {}
    for role in roles:
        name = names.get(role, role)
        ending = [method for method in study.methods if method.endswith(f"/{name}")]
        found = name if name in study.methods else ending[0] if len(ending) == 1 else ""
        if role in names and not found:
            known = ", ".join(study.methods)
            raise UserError(f"no method {name!r} among the runs", where=f"role {role}", fix=f"use one of: {known}")
        cast[role] = study.runs(found)
    return cast
