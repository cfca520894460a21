"""How often each interval that the package prints holds the truth: ``python -m benchmarks.coverage``.

A line per interval, population and size, as a Markdown table. An interval of 95 % should hold it in 93 % or more of the
trials; one that does in more than 97 % is called conservative, one that does not is said to miss. With 1,000 trials a
share of 95 % has a standard error of .7 points, with 200 of 1.5. Every line draws from its own seed, so ``--only``
changes no number.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.made_runs import made_run
from lit_sdpo.callbacks.responses.drift import estimate, mean_over_tasks
from lit_sdpo.functional import (
    difference_interval,
    excess_kl_bounds,
    excess_reverse_kl,
    mean_interval,
    mean_with_interval,
)
from lit_sdpo.report.charts.numbers import over_seeds, quadratic_fit
from lit_sdpo.report.claims import Crossing
from lit_sdpo.report.comparisons import Draws, effect
from lit_sdpo.report.measures import MEASURES, POSITIVE, Measure, own_score
from lit_sdpo.report.run import Run
from lit_sdpo.report.summary import summarize, summary_intervals
from lit_sdpo.report.tables import Matrix, MatrixRow

PROMPTS, SEEDS = (8, 32, 64), (3, 5, 10)
LEAST, CONSERVATIVE = 0.93, 0.97
#: Both ends of an interval and the truth.
Ends = tuple[float, float, float]
#: One trial.
Trial = Callable[[Generator], Ends]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """Some intervals of the same draws, at one population and size."""

    intervals: tuple[str, ...]
    population: str
    size: str
    trial: Callable[[Generator], Sequence[Ends]]
    trials: int


def line(interval: str, population: str, size: str, trial: Trial, trials: int = 1000) -> Lines:
    """One interval at one population and size."""
    return Lines((interval,), population, size, lambda generator: [trial(generator)], trials)


@dataclass(frozen=True)
class Population:
    """Values of prompts or seeds with a known mean."""

    name: str
    draw: Callable[[Generator, tuple[int, ...]], Array]
    mean: float


def shares(samples: int = 1, rates: tuple[float, ...] = (0.1, 0.5, 0.9)) -> list[Population]:
    each = "" if samples == 1 else f", {samples} samples"

    def drawn(rate: float) -> Callable[[Generator, tuple[int, ...]], Array]:
        return lambda generator, shape: generator.binomial(samples, rate, shape) / samples

    return [Population(f"share {rate:g}{each}", drawn(rate), rate) for rate in rates]


def lognormal(sigma: float) -> Population:
    return Population(
        f"lognormal {sigma:g}", lambda g, shape: np.exp(sigma * g.standard_normal(shape)), math.exp(sigma**2 / 2)
    )


NORMAL = Population("normal", lambda g, shape: 10 + g.standard_normal(shape), 10.0)
NUMBERS = [NORMAL, lognormal(0.5), lognormal(1.0)]


# ------------------------------------------------------------------------------------------------------ over prompts
def of_scores() -> Iterator[Lines]:
    """``tasks.csv``, ``changes.csv``, ``lit-sdpo transitions``."""
    for n in PROMPTS:
        for population in [*shares(), *shares(4), NORMAL]:
            yield line("score of a task", population.name, f"{n} prompts", _mean(population, n))
        for before in [*shares(), *shares(4)]:
            for after in (
                before,
                *(x for x in shares(before.name.count("4") * 4 or 1) if x.mean == 0.5 != before.mean),
            ):
                name = f"{before.name} to {after.mean:g}"
                yield line("change of a task", name, f"{n} prompts", _change(before, after, n))
        yield line("change of a task", "normal", f"{n} prompts", _change(NORMAL, NORMAL, n))
        always = Population("share 1", lambda g, shape: np.ones(shape), 1.0)
        for after in shares(rates=(0.9, 0.5)):
            yield line("change of a task", f"all right to {after.mean:g}", f"{n} prompts", _change(always, after, n))
        for population in shares():
            yield line("lost, won (lm-eval)", population.name, f"{n} prompts", _lost(population, n))


def _mean(population: Population, n: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        low, high, _ = mean_interval(torch.from_numpy(population.draw(generator, (n,))))
        return low, high, population.mean

    return trial


def _change(before: Population, after: Population, n: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        values = (torch.from_numpy(x.draw(generator, (n,))) for x in (before, after))
        low, high, _ = difference_interval(*values)
        return low, high, after.mean - before.mean

    return trial


def _lost(population: Population, n: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        before, after = (population.draw(generator, (n,)) for _ in range(2))
        low, high, _ = mean_interval(torch.from_numpy(before * (1 - after)))
        return low, high, population.mean * (1 - population.mean)

    return trial


# ---------------------------------------------------------------------------------------------------- ResponseDrift
def of_responses() -> Iterator[Lines]:
    """``response_drift.csv``."""
    for n in PROMPTS:
        for population in NUMBERS:
            name, size = population.name, f"{n} prompts"
            yield line("response drift, nats per response", name, size, _response(population, n, "reverse_kl", False))
            yield line("response drift, per token", name, size, _response(population, n, "js", True))
            yield line("response drift, mean of 3 tasks", name, size, _earlier(population, n, 3))
        for population in shares(4):
            trial = _response(population, n, "truncated", False)
            yield line("response drift, shares", population.name, f"{n} prompts", trial)
        for z in (0.05, 0.3):
            yield line("excess KL, between its bounds", f"success of the base {z:g}", f"{n} prompts", _excess(z, n))


def _response(population: Population, n: int, name: str, lengths: bool) -> Trial:
    def trial(generator: Generator) -> Ends:
        values = torch.from_numpy(population.draw(generator, (n,)))
        sizes = torch.from_numpy(np.exp(0.5 * generator.standard_normal(n))) if lengths else torch.ones(n)
        found = estimate(name, values * sizes, sizes)
        return found.low, found.high, population.mean

    return trial


def _earlier(population: Population, n: int, tasks: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        rows = torch.from_numpy(population.draw(generator, (tasks, n)))
        found = mean_over_tasks([{"js": estimate("js", row, torch.ones(n))} for row in rows])["js"]
        return found.low, found.high, population.mean

    return trial


def _excess(z: float, n: int, completions: int = 4, answers: int = 20) -> Trial:
    """Prompts that differ in base and policy, all of one success rate; the truth is the mean over 500 of them."""
    fixed = np.random.default_rng(0)
    right = torch.arange(answers) < answers // 2
    laws = []
    for _ in range(500):
        base, noise = torch.from_numpy(fixed.standard_normal((2, answers)))
        base = base.softmax(0)
        base = torch.where(right, z * base / base[right].sum(), (1 - z) * base / base[~right].sum())
        policy = (base.log() + 2.0 * right + 0.7 * noise).softmax(0)
        laws.append((policy, base, float(excess_reverse_kl(policy, base, right))))
    truth = float(np.mean([excess for _, _, excess in laws]))

    def trial(generator: Generator) -> Ends:
        chosen = [laws[i] for i in generator.integers(len(laws), size=n)]
        ratios, successes = [], []
        for side in (0, 1):
            law = np.stack([pair[side].numpy() for pair in chosen]).cumsum(1)
            places = (generator.random((n, completions, 1)) > law[:, None]).sum(-1).clip(max=answers - 1)
            ids = torch.from_numpy(places)
            ratio = torch.stack([policy.log() - base.log() for policy, base, _ in chosen])
            ratios.append(ratio.gather(1, ids))
            successes.append(right[ids].double())
        bounds = excess_kl_bounds(ratios[0], successes[0], ratios[1], successes[1])
        ends = [estimate("excess_kl", bound, torch.ones(n)) for bound in bounds]
        return ends[0].low, ends[1].high, truth

    return trial


# ------------------------------------------------------------------------------------------------------------ summary
def of_summary() -> Iterator[Lines]:
    """The numbers under the retention matrix, of three tasks and a probe."""
    names = ("average_accuracy", "learning_accuracy", "anytime_accuracy", "bwt", "fwt", "forgetting")
    names += ("relative_gain", "relative_forgetting", "ood_change", "ood_relative_change")
    worlds = {f"share {rate:g} throughout": np.full((4, 4), rate) for rate in (0.1, 0.5, 0.9)}
    learned = np.array([[0.3, 0.3, 0.3, 0.5], [0.8, 0.3, 0.3, 0.5], [0.6, 0.8, 0.3, 0.4], [0.5, 0.7, 0.8, 0.4]])
    worlds["learned and forgotten"] = learned
    for world, rates in worlds.items():
        truth = summarize(_matrix(rates))
        for n in PROMPTS:
            yield Lines(names, world, f"{n} prompts", _summary(rates, n, [truth[name] for name in names], names), 300)


TASKS, COLUMNS = ["a", "b", "c"], ["a", "b", "c", "probe"]


def _matrix(rates: Array) -> Matrix:
    rows = zip(["base", *TASKS], rates.tolist(), strict=True)
    return Matrix(
        TASKS, ["probe"], [MatrixRow(i, x, i, dict(zip(COLUMNS, row, strict=True))) for i, (x, row) in enumerate(rows)]
    )


def _summary(
    rates: Array, n: int, truths: Sequence[float], names: Sequence[str]
) -> Callable[[Generator], Sequence[Ends]]:
    def trial(generator: Generator) -> Sequence[Ends]:
        scores = (generator.random((4, 4, n)) < rates[..., None]).astype(float)
        items = {
            i: {c: {str(k): x for k, x in enumerate(scores[i, j].tolist())} for j, c in enumerate(COLUMNS)}
            for i in range(4)
        }
        found = summary_intervals(_matrix(scores.mean(-1)), items)
        none = math.nan, math.nan
        return [(*found.get(name, none), truth) for name, truth in zip(names, truths, strict=True)]

    return trial


# ------------------------------------------------------------------------------------------- over seeds, and over both
def of_methods() -> Iterator[Lines]:
    """Levels, pairs, equal success, claims and the map: all have their intervals from the same function."""
    number = Measure("number", "number", "", 0, from_run=lambda run: float(run.config["x"]))
    ratio = Measure("ratio", "ratio", "", 0, from_run=lambda run: float(run.config["x"]), ratio=True)
    nats = Measure("nats", "nats", "", 0, from_run=lambda run: float(run.config["x"]), possible=POSITIVE)
    share = Measure("share", "share", "", 0, from_run=lambda run: float(run.config["x"]), possible=(0, 1))
    for n in SEEDS:
        size = f"{n} seeds"
        for population in NUMBERS:
            measure = number if population is NORMAL else nats
            yield line("level of a method, no prompts", population.name, size, _level(measure, population, n), 1000)
            yield line("pair of methods, no prompts", population.name, size, _pair(number, population, n), 500)
        for sigma in (0.5, 1.0):
            geometric = Population(f"lognormal {sigma:g}", lognormal(sigma).draw, 1.0)
            yield line("level, as a ratio", geometric.name, size, _level(ratio, geometric, n), 1000)
            yield line("pair of methods, ratio", geometric.name, size, _pair(ratio, geometric, n), 500)
        for population in shares(64):
            yield line("level of a method, no prompts", population.name, size, _level(share, population, n), 500)
            yield line("pair of methods, no prompts", population.name, size, _pair(share, population, n), 500)
        for prompts in PROMPTS:
            for rate in (0.1, 0.5, 0.9):
                both = f"{size}, {prompts} prompts"
                name = f"share {rate:g}, prompts and seeds differ"
                yield line("level of a method", name, both, _scores(rate, n, prompts, False), 200)
                yield line("pair of methods", name, both, _scores(rate, n, prompts, True), 200)
        yield line("a lead each (C1)", "no lead", size, _crossing(n, 0.0), 100)
        yield line("a lead each (C1)", "a lead of .1 each", size, _crossing(n, 0.1), 100)
        for population in (NORMAL, lognormal(0.5)):
            yield line("pair of methods, between bounds", population.name, size, _bounded(population, n), 500)
            yield line("mean of seeds in a figure", population.name, size, _figure(population, n), 500)
    for n in PROMPTS:
        for population in NUMBERS:
            yield line("mean over layers", population.name, f"{n} matrices", _layers(population, n))
        yield line("quadratic fit in a figure", "normal", f"{n} points", _band(n), 500)


def _runs(method: str, values: Array, **files: object) -> list[Run]:
    return [made_run(method, seed, config={"x": x}, **files) for seed, x in enumerate(values)]


def _level(measure: Measure, population: Population, n: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        found = effect(measure, _runs("m", population.draw(generator, (n,))))
        return found.low, found.high, population.mean

    return trial


def _pair(measure: Measure, population: Population, n: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        more, less = population.draw(generator, (2, n))
        found = effect(measure, _runs("m", more), _runs("l", less))
        return found.low, found.high, found.null

    return trial


def _bounded(population: Population, n: int) -> Trial:
    """The excess KL of two methods that do not differ, of which seven tenths and five fourths are measured."""

    def trial(generator: Generator) -> Ends:
        sides = []
        for method in ("m", "l"):
            values = population.draw(generator, (n,))
            measured = {"excess_kl": 0.7 * values, "excess_kl_at_most": 1.25 * values}
            sides.append([_responses(method, s, {k: float(x[s]) for k, x in measured.items()}) for s in range(n)])
        found = effect(MEASURES["excess_kl"], *sides)
        return found.low, found.high, 0.0

    return trial


def _responses(method: str, seed: int, numbers: dict[str, float]) -> Run:
    from lit_sdpo.report.responses import Estimate, ResponseRow

    estimates = {name: Estimate(x, x, x) for name, x in numbers.items()}
    return made_run(method, seed, responses=[ResponseRow(10, 1, "a", "current", estimates)])


def _scores(rate: float, seeds: int, prompts: int, compared: bool) -> Trial:
    """Prompts differ in difficulty, the same for all runs; seeds by .5 and both together by .5, in logits."""
    logit, spread = math.log(rate / (1 - rate)), (1.0, 0.5, 0.5)
    fixed = np.random.default_rng(0).standard_normal((200_000, 3)) @ np.array(spread)
    truth = float((1 / (1 + np.exp(-logit - fixed))).mean())

    def trial(generator: Generator) -> Ends:
        difficulty = spread[0] * generator.standard_normal((1, prompts))
        sides = []
        for method in ("m", "l")[: 1 + compared]:
            shift = spread[1] * generator.standard_normal((seeds, 1))
            own = spread[2] * generator.standard_normal((seeds, prompts))
            chance = 1 / (1 + np.exp(-logit - difficulty - shift - own))
            scores = generator.binomial(4, chance) / 4
            base = np.zeros(prompts)
            sides.append([made_run(method, s, [{"a": base}, {"a": x}]) for s, x in enumerate(scores)])
        found = effect(MEASURES["average_accuracy"], *sides, draws=Draws(500))
        return found.low, found.high, 0.0 if compared else truth

    return trial


def _crossing(seeds: int, lead: float) -> Trial:
    """Three tasks of 32 prompts; each of two methods leads on one of them, or none."""
    part = Crossing("each leads", own_score, "one", "other", 0.02)
    tasks = ("a", "b", "c")

    def trial(generator: Generator) -> Ends:
        cast = {}
        for role, rates in (("one", (0.5 + lead, 0.5, 0.5)), ("other", (0.5, 0.5 + lead, 0.5))):
            cast[role] = []
            for seed in range(seeds):
                chance = np.clip(np.array(rates) + 0.03 * generator.standard_normal(3), 0, 1)
                scores = (generator.random((32, 3)) < chance).astype(float)
                row = {task: scores[:, k] for k, task in enumerate(tasks)}
                cast[role].append(made_run(role, seed, [row] * 4, tasks))
        found = part.effect(cast, Draws(500))
        return found.low, found.high, lead

    return trial


def _figure(population: Population, n: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        _, low, high, _ = over_seeds(population.draw(generator, (n, 1)))
        return float(low[0]), float(high[0]), population.mean

    return trial


def _layers(population: Population, n: int) -> Trial:
    def trial(generator: Generator) -> Ends:
        _, low, high = mean_with_interval(torch.from_numpy(population.draw(generator, (n,))))
        return low, high, population.mean

    return trial


def _band(n: int) -> Trial:
    x = np.linspace(0, 1, n)

    def trial(generator: Generator) -> Ends:
        found = quadratic_fit(x, x * (1 - x) + 0.1 * generator.standard_normal(n), [0.5])
        assert found is not None
        return float(found[1][0]), float(found[2][0]), 0.25

    return trial


# -------------------------------------------------------------------------------------------------------------- table
def lines() -> Iterator[Lines]:
    """All lines of the table."""
    for group in (of_scores, of_responses, of_summary, of_methods):
        yield from group()


def coverage(some: Lines, trials: int | None = None) -> list[tuple[float, float]]:
    """Of each interval the share of the trials in which it holds the truth, and in which there is none.

    A trial without an interval, as where nothing varies, counts for neither.
    """
    generator = np.random.default_rng(crc32(f"{some.intervals[0]}{some.population}{some.size}".encode()))
    count = trials or some.trials
    drawn = np.array([some.trial(generator) for _ in range(count)])
    low, high, truth = drawn.transpose(2, 1, 0)
    known = ~np.isnan(low + high)
    held = known & (low - 1e-9 <= truth) & (truth <= high + 1e-9)
    return [(float(h.sum() / max(1, k.sum())), float(1 - k.mean())) for h, k in zip(held, known, strict=True)]


def remark(share: float) -> str:
    """What the last column says."""
    return "misses" if share < LEAST else "conservative" if share > CONSERVATIVE else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="intervals whose name has this in it")
    parser.add_argument("--trials", type=int, help="of each line; default: 100 to 1,000, by how long one takes")
    options = parser.parse_args()
    started = time.perf_counter()
    print("| interval | population | size | holds the truth, % | |\n|---|---|---|---:|---|")
    count = missed = 0
    for some in lines():
        if not any(options.only in name for name in some.intervals):
            continue
        for name, (share, none) in zip(some.intervals, coverage(some, options.trials), strict=True):
            count, missed = count + 1, missed + (share < LEAST)
            notes = [remark(share)] if remark(share) else []
            notes += [f"no interval in {100 * none:.0f} %"] if none >= 0.005 else []
            cells = (name, some.population, some.size, f"{100 * share:.1f}", ", ".join(notes))
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{count} lines, {missed} miss; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
