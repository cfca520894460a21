"""Methods compared by seed and prompt: effects with intervals, p-values, and Holm's correction of all pairs.

Two levels vary. *Prompts* are drawn again within every task, the same ones for all runs whose evaluations share them,
so a comparison is paired by prompt. *Seeds* are a handful, and drawing three of them again gives intervals that hold
the truth three times in four: the mean over seeds has Student's t distribution instead. Both parts add up in every
draw. The differences between seeds hold noise of the prompts too, so intervals are rather too wide than too narrow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_sdpo.functional import percentile_interval, ratio_interval
from lit_sdpo.functional.pairs import RESAMPLES, combine, holm, p_value, sign_flip
from lit_sdpo.report.items import means
from lit_sdpo.report.measures import MEASURES, POSITIVE, Measure, scores_of
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study
from lit_sdpo.report.summary import cell_draws

#: With fewer seeds nothing is decided.
ENOUGH_SEEDS = 3
#: How the reason begins where a method never gets to what is counted.
NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Effect:
    """How much larger a measure is with one method than with another, or its level with one method.

    Attributes:
        value: Mean over the seeds: a difference, or a ratio (geometric mean) where the measure is compared so.
        low: Lower end of the 95 % interval; with one seed it is over prompts alone, nan without prompts and where all
            seeds have exactly one value.
        high: Upper end.
        p: Two-sided p-value that there is no effect, from the draws behind the interval; nan for a level.
        p_flip: The same from flipping the signs of the seeds' differences, exact and at least ``2^(1 - seeds)``.
        by_seed: Seed to its own value.
        null: What no effect is: 0, or 1 for a ratio.
        missing: Why there is no value.
        no_spread: Whether all seeds and prompts have one value. The interval is then what so few of them may well have
            missed, or there is none.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_flip: float = math.nan
    by_seed: Mapping[int, float] = field(default_factory=dict)
    null: float = 0.0
    missing: str = ""
    no_spread: bool = False

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.by_seed)

    def __str__(self) -> str:
        """Value, interval and seeds in one line."""
        if self.missing:
            return f"- ({self.missing})"
        number = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], {number}"


@dataclass(frozen=True)
class Comparison:
    """One measure of two methods.

    Attributes:
        measure: Which.
        more: Method whose value comes first: the effect is ``more - less``, or ``more / less``.
        less: The other.
        effect: How they differ.
        p_holm: ``effect.p`` corrected for all pairs of methods of this measure; nan where there is no p.
    """

    measure: Measure
    more: str
    less: str
    effect: Effect
    p_holm: float = math.nan

    @property
    def verdict(self) -> str:
        """Which method has more, at a corrected p below 0.05; undecided with fewer than three seeds."""
        if self.effect.missing:
            return f"not measured: {self.effect.missing}"
        if self.effect.seeds < ENOUGH_SEEDS:
            return f"undecided: {self.effect.seeds} seed" + "s" * (self.effect.seeds != 1)
        if not self.p_holm < 0.05:
            return "undecided"
        return f"{self.more if self.effect.value > self.effect.null else self.less} has more"


class Draws:
    """Values of measures for the runs of a study, each with its draws over prompts; computed once and kept.

    Args:
        resamples: S.
    """

    def __init__(self, resamples: int = RESAMPLES) -> None:
        self.resamples = resamples
        self._cells: dict[Run, Tensor] = {}
        self._values: dict[tuple[Run, Measure], tuple[float, Tensor | None]] = {}

    def of(self, run: Run, measure: Measure) -> tuple[float, Tensor | None]:
        """The value, as a logarithm where it is compared as a ratio, and its draws [S] if it has prompts."""
        key = run, measure
        if key not in self._values:
            value, draws = measure.value(run), None
            if measure.from_scores is not None and math.isfinite(value) and any(run.items.values()):
                draws = measure.from_scores(run, self._drawn(run))
            if measure.ratio:
                value = math.log(value) if value > 0 else math.nan
                draws = None if draws is None else draws.log()
            self._values[key] = value, draws
        return self._values[key]

    def difference(
        self, run: Run, partner: Run | None, measure: Measure, partner_measure: Measure | None = None
    ) -> tuple[float, Tensor | None]:
        """:meth:`of` a run less that of its partner, prompt by prompt; of the partner another measure may count."""
        value, draws = self.of(run, measure)
        if partner is None:
            return value, draws
        other, other_draws = self.of(partner, partner_measure or measure)
        if draws is None or other_draws is None:
            return value - other, draws if other_draws is None else -other_draws
        return value - other, draws - other_draws

    def _drawn(self, run: Run) -> Tensor:
        if run not in self._cells:
            matrix = run.matrix
            items = {i: {task: means(x) for task, x in tasks.items()} for i, tasks in run.items.items()}
            drawn = cell_draws(matrix, items, resamples=self.resamples)
            self._cells[run] = torch.where(drawn.isnan(), scores_of(run), drawn)
        return self._cells[run]


def effect(
    measure: Measure,
    more: Sequence[Run],
    less: Sequence[Run] | None = None,
    draws: Draws | None = None,
    *,
    confidence: float = 0.95,
) -> Effect:
    """Compare two methods, paired by seed and prompt, or give the level of one.

    Args:
        measure: What is compared.
        more: Runs of one method, one per seed.
        less: Runs of the other; ``None`` for the level of ``more``.
        draws: Where values are kept; a new one without.
        confidence: Of the interval.

    Returns:
        The effect over the seeds that both have and where both have a value.
    """
    draws = draws or Draws()
    if measure.at_most:
        return _between(measure, more, less, draws, confidence)
    return _effect((measure, more), (measure, less), draws, confidence)


#: A measure and the runs of which it is taken.
Side = tuple[Measure, Sequence[Run]]


def _effect(one: Side, other: tuple[Measure, Sequence[Run] | None], draws: Draws, confidence: float) -> Effect:
    (measure, more), (partner_measure, less) = one, other
    null = 1.0 if measure.ratio and less is not None else 0.0
    partners = {run.seed: run for run in less or ()}
    pairs = [(run, partners.get(run.seed)) for run in more if less is None or run.seed in partners]
    if not pairs:
        return Effect(null=null, missing="no seed that both have" if more and less else "no runs")
    if missing := _not_reached(draws, measure, more) or _not_reached(draws, partner_measure, less or ()):
        return Effect(null=null, missing=missing)
    values: dict[int, float] = {}
    drawn: list[Tensor] = []
    for run, partner in pairs:
        value, spread = draws.difference(run, partner, measure, partner_measure)
        if math.isfinite(value):
            values[run.seed] = value
            if spread is not None:
                drawn.append(spread)
    if not values:
        return Effect(null=null, missing=f"{measure.title} was not measured")
    differences = torch.tensor(list(values.values()), dtype=torch.float64)
    prompts = torch.stack(drawn).sum(0) / len(differences) if drawn else None
    total = combine(differences, prompts, draws.resamples)
    no_spread = prompts is None and len(differences) > 1 and bool((differences == differences[0]).all())
    if no_spread:
        total.fill_(math.nan)  # seeds that agree exactly do not say how far others would be apart
    low, high = map(float, percentile_interval(total, confidence))
    if less is None and prompts is None and measure.possible == POSITIVE and not math.isnan(low):
        low, high, _ = ratio_interval(differences, confidence=confidence)  # of what is skewed as divergences are
    if high - low < 1e-9 and prompts is not None:
        no_spread = True
        half = _unseen(measure, [run for run, _ in pairs], confidence)
        low, high = low - half, high + half
    levels = [draws.of(run, measure)[0] for run, _ in pairs]
    levels += [draws.of(partner, partner_measure)[0] for _, partner in pairs if partner is not None]
    shown = _exp if measure.ratio else _within(measure.possible, levels, compared=less is not None)
    return Effect(
        value=shown(float(differences.mean())),
        low=shown(low),
        high=shown(high),
        p=math.nan if less is None else p_value(total),
        p_flip=math.nan if less is None else sign_flip(differences.tolist()),
        by_seed={seed: shown(value) for seed, value in values.items()},
        null=null,
        no_spread=no_spread,
    )


def _not_reached(draws: Draws, measure: Measure, runs: Sequence[Run]) -> str:
    """How many runs never reach what a measure counts, if any: the mean of the others would favour failing."""
    never = sum(math.isinf(draws.of(run, measure)[0]) for run in runs)
    return f"{NOT_REACHED} by {never} of {len(runs)} run{'s' * (len(runs) != 1)}" if never else ""


def _between(
    measure: Measure, more: Sequence[Run], less: Sequence[Run] | None, draws: Draws, confidence: float
) -> Effect:
    """Effect on a quantity of which two bounds are measured: its interval holds whatever lies between them.

    The least effect is the lower bound of the one less the upper bound of the other, the largest the reverse. The value
    is midway, the p-value that of the bound which is nearer to no effect, 1 where they lie on either side of it.
    """
    upper = MEASURES[measure.at_most]
    if less is None:
        ends = [_effect((bound, more), (bound, None), draws, confidence) for bound in (measure, upper)]
    else:
        ends = [
            _effect((bound, more), (opposite, less), draws, confidence)
            for bound, opposite in ((measure, upper), (upper, measure))
        ]
    if missing := next((end.missing for end in ends if end.missing), ""):
        return Effect(missing=missing)
    least, most = ends
    seeds = [seed for seed in least.by_seed if seed in most.by_seed]
    decided = least.value * most.value > 0
    return Effect(
        value=(least.value + most.value) / 2,
        low=least.low,
        high=most.high,
        p=math.nan if less is None else max(least.p, most.p) if decided else 1.0,
        p_flip=math.nan if less is None else max(least.p_flip, most.p_flip) if decided else 1.0,
        by_seed={seed: (least.by_seed[seed] + most.by_seed[seed]) / 2 for seed in seeds},
    )


def _within(possible: tuple[float, float], levels: Sequence[float], *, compared: bool) -> Callable[[float], float]:
    """Cuts an end at the values that a number, or a difference of two, can have; nan stays nan.

    Nothing is cut where a run has another value, as with a metric in percent in the place of a score.
    """
    least, most = possible
    if any(level < least or level > most for level in levels):
        return float
    if compared:
        least, most = least - most, most - least
    return lambda x: x if math.isnan(x) else min(max(x, least), most)


def _unseen(measure: Measure, runs: Sequence[Run], confidence: float) -> float:
    """How far the truth may be from what all prompts and seeds agree on: by what so many prompts may well have missed.

    The rule of three, as in :func:`~lit_sdpo.functional.statistics.difference_interval`.
    """
    counts = [len(prompts) for run in runs for tasks in run.items.values() for prompts in tasks.values()]
    return (100 if measure.unit in ("points", "%") else 1) * (1 - (1 - confidence) ** (1 / min(counts)))


def _exp(x: float) -> float:
    """Infinite where :func:`math.exp` would overflow, as an end of an interval over two seeds can."""
    return math.inf if x > 700 else math.exp(x)


def compare(
    study: Study,
    measures: Iterable[Measure] | None = None,
    methods: Sequence[str] | None = None,
    draws: Draws | None = None,
) -> list[Comparison]:
    """All pairs of methods in every measure; p-values are corrected by Holm over the pairs of one measure.

    Args:
        study: The runs, of one stream and one base (:meth:`~lit_sdpo.report.study.Study.streams`).
        measures: Default: all of :data:`~lit_sdpo.report.measures.MEASURES`.
        methods: Default: all of the study.
        draws: Where values are kept.

    Returns:
        By measure, then pair; measures that no run has are left out.
    """
    draws, methods = draws or Draws(), methods or study.methods
    found = []
    for measure in MEASURES.values() if measures is None else measures:
        pairs = list(itertools.combinations(methods, 2))
        effects = [effect(measure, study.runs(one), study.runs(other), draws) for one, other in pairs]
        if all(each.missing for each in effects):
            continue
        corrected = holm([each.p for each in effects])
        found += [
            Comparison(measure, one, other, each, p)
            for (one, other), each, p in zip(pairs, effects, corrected, strict=True)
        ]
    return found


def levels(
    study: Study, measures: Iterable[Measure] | None = None, draws: Draws | None = None
) -> dict[str, dict[str, Effect]]:
    """Every measure of every method: mean over the seeds with its interval, by the measure's name, then method."""
    draws = draws or Draws()
    table = {
        measure.name: {method: effect(measure, study.runs(method), draws=draws) for method in study.methods}
        for measure in (MEASURES.values() if measures is None else measures)
    }
    return {name: row for name, row in table.items() if not all(each.missing for each in row.values())}
