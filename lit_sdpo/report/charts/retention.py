"""What was kept and lost: change by task learned, out-of-domain tasks, ranks, and the matrices."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lit_sdpo.report.charts.chart import Chart, Missing, Table
from lit_sdpo.report.charts.draw.bars import grouped_bars
from lit_sdpo.report.charts.draw.heat import heat_maps
from lit_sdpo.report.charts.draw.lines import by_stage
from lit_sdpo.report.charts.numbers import Array, over_seeds, score_limits, shades
from lit_sdpo.report.charts.streams import WITH_INTERVALS, Stream, extremes
from lit_sdpo.report.charts.style import short

LOSSES = "fixed texts (loss: a rise is forgetting)"
NO_PROBES = "the runs have no probes: name tasks that are only evaluated under data.init_args.probes"
TOO_SMALL = " It is in points of the score, because a base score is below .05 and a percentage would explode."


def by_task_learned(stream: Stream) -> Chart:
    """Mean change from the base over the tasks, and over the probes, after each stage (the paper's Figure 1)."""
    panels, rows, ends, plain = {}, [], [], False
    matrix = stream.matrix
    scored, losses = _probes(stream)
    for title, columns in (("tasks of the stream", matrix.tasks), ("out of domain", scored), (LOSSES, losses)):
        if not columns:
            continue
        relative, changes = stream.changes(columns)
        plain |= not relative
        unit = "percent of base" if relative else "points"
        possible = stream.possible_changes(columns, relative=relative)
        curves = {m: (range(len(matrix.rows)), change.mean(2)) for m, change in changes.items()}
        panels[title] = (f"mean change from base\n({unit})", curves, possible)
        final = {m: float(over_seeds(values)[0][-1]) for m, (_, values) in curves.items()}
        ends.append(f"{title}: {extremes(final, unit=' %' if relative else ' points')}")
        for method, (_, values) in curves.items():
            for i, (mean, low, high, n) in enumerate(zip(*over_seeds(values, possible), strict=True)):
                rows.append([title, method, i, matrix.rows[i].label, unit, mean, low, high, n])
    return Chart(
        stream.name("by-task-learned"),
        stream.title("How far scores move from the base with every task learned"),
        f"At the end, {'; '.join(ends)}.",
        f"Each point is the mean over the group's tasks after a stage; 0 is the model before training. {stream.seeds}. "
        f"{WITH_INTERVALS}{TOO_SMALL if plain else ''} Corresponds to Figure 1 of the paper.",
        "Lines of the mean change from the base after each stage, one per method.",
        Table(["tasks", "method", "stage", "label", "unit", "mean", "low", "high", "seeds"], rows),
        by_stage(panels, stream.ticks, stream.looks),
    )


def _probes(stream: Stream) -> tuple[list[str], list[str]]:
    """Probes that are scored, and those that are losses."""
    probes, losses = stream.matrix.probes, stream.matrix.losses
    return [p for p in probes if p not in losses], [p for p in probes if p in losses]


def out_of_domain(stream: Stream) -> Chart | Missing:
    """Change of every probe at the end of the stream (Figure 6)."""
    title = stream.title("What training did to tasks outside of the stream")
    probes, _ = _probes(stream)
    if not probes:
        return Missing(stream.name("out-of-domain"), title, NO_PROBES)
    relative, changes = stream.changes(probes)
    unit = "percent of base" if relative else "points"
    possible = stream.possible_changes(probes, relative=relative)
    final = {m: change[:, -1] for m, change in changes.items()}
    rows = [
        [method, probe, unit, *numbers]
        for method, values in final.items()
        for probe, *numbers in zip(probes, *over_seeds(values, possible), strict=True)
    ]
    means = {m: float(np.nanmean(v)) if np.isfinite(v).any() else math.nan for m, v in final.items()}
    return Chart(
        stream.name("out-of-domain"),
        title,
        f"Mean over the probes: {extremes(means, unit=' %' if relative else ' points')}.",
        f"Change from the base to the end of the last stage, by probe; below 0 is lost ability. {stream.seeds}. "
        f"{WITH_INTERVALS}{'' if relative else TOO_SMALL} Corresponds to Figure 6 of the paper.",
        "Bars of the change, a group per probe and a bar per method.",
        Table(["method", "probe", "unit", "mean", "low", "high", "seeds"], rows),
        grouped_bars(final, probes, f"change from base ({unit})", stream.looks, possible),
    )


def ranks(stream: Stream) -> Chart | Missing:
    """Rank of every method and the base on every task at the end, 1 is best (Figure 2a)."""
    title = stream.title("Which method ends best on which task")
    if len(stream.runs) < 2:
        return Missing(stream.name("ranks"), title, "ranks need two methods or more: give runs of another method too")
    columns = stream.matrix.columns
    names = ["base", *stream.runs]
    every = {method: stream.scores(method) for method in stream.runs}
    base = over_seeds(np.concatenate([scores[:, 0] for scores in every.values()]))[0]
    scores = np.stack([base, *(over_seeds(part[:, -1])[0] for part in every.values())])
    placed = np.stack([_ranks(stream.matrix.sign(c) * scores[:, j]) for j, c in enumerate(columns)], axis=1)
    average, *_ = over_seeds(placed.T)
    numbers = np.column_stack([placed, average])
    order = [0, *(1 + np.argsort(average[1:], kind="stable"))]
    texts = [
        [*(f"{_rank(r)}\n{s:.3f}" if math.isfinite(s) else "-" for r, s in zip(placed[i], scores[i], strict=True)),
         f"{average[i]:.1f}"] for i in order
    ]  # fmt: skip
    rows = [[names[i], c, scores[i, j], placed[i, j]] for i in order for j, c in enumerate(columns)]
    return Chart(
        stream.name("ranks"),
        title,
        f"Best mean rank: {names[int(np.nanargmin(average))]} ({np.nanmin(average):.1f} of {len(names)}).",
        "Rank of the mean score at the end among all methods and the base (1, bright, is best; equal scores share "
        f"their ranks), the score below it. Mean over {stream.seeds}; differences may lie within the noise, see the "
        "comparisons. Last column: mean of the ranks. Corresponds to the radars of Figure 2a of the paper.",
        "A table of ranks, a row per method and a column per task.",
        Table(["method", "task", "score", "rank"], rows),
        heat_maps(
            [("rank at the end, score below", numbers[order], texts)],
            [short(names[i]) for i in order],
            [*stream.matrix.headings, "mean"],
            limits=(1, max(2, len(names))),
            reverse=True,
            divide_at=len(columns),
        ),
    )


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from the highest down, equal ones share the mean of their ranks.

    Example:
        >>> _ranks(np.array([0.5, 0.9, 0.5, math.nan]))
        array([2.5, 1. , 2.5, nan])
    """
    known = np.isfinite(scores)
    higher = (scores[known] > scores[:, None]).sum(1)
    equal = (scores[known] == scores[:, None]).sum(1)
    return np.where(known, higher + (equal + 1) / 2, math.nan)


def _rank(rank: float) -> str:
    return f"{rank:.1f}".removesuffix(".0")


def matrices(stream: Stream) -> Chart:
    """The matrix of every method, mean over the seeds with its interval."""
    matrix = stream.matrix
    panels, rows = [], []
    for method in stream.runs:
        scores = stream.scores(method)
        bounded = [_bounded(scores[..., k], column in matrix.losses) for k, column in enumerate(matrix.columns)]
        parts = [_of_row(scores[:, i], bounded) for i in range(scores.shape[1])]
        mean = np.stack([part[0] for part in parts])
        panels.append((short(method), mean, [_cells(*part[:3]) for part in parts]))
        for row, part in zip(matrix.rows, parts, strict=True):
            rows += [[method, row.stage, row.label, c, *x] for c, *x in zip(matrix.columns, *part, strict=True)]
    losses = np.array([c in matrix.losses for c in matrix.columns], dtype=bool)
    means = np.stack([mean for _, mean, _ in panels])
    limits = score_limits(means[..., ~losses])
    coloured = zip(panels, shades(means, list(losses), limits), strict=True)
    shaded = [(title, cells, texts) for (title, _, texts), cells in coloured]
    framed = [(i, j) for i in range(len(matrix.rows)) for j, c in enumerate(matrix.columns) if matrix.trained(i, c)]
    finals = {m: float(np.nanmean(x[-1, : len(matrix.tasks)])) for m, x, _ in panels if np.isfinite(x[-1]).any()}
    return Chart(
        stream.name("scores"),
        stream.title("Score on every task after every stage"),
        f"Mean score on the stream's tasks at the end: {extremes(finals, '.3f')}.",
        f"Mean over {stream.seeds}, below it its 95 % t-interval (from three seeds on), which ends where scores do. "
        "A frame marks the task that the stage trained; the line parts tasks from probes; bright is "
        f"{'good, of a loss the least of its column' if losses.any() else 'high'}. Corresponds to "
        "Table D.6 of the paper.",
        "A table of scores per method, a row per stage and a column per task.",
        Table(["method", "stage", "label", "task", "mean", "low", "high", "seeds"], rows),
        heat_maps(
            shaded,
            [row.title for row in matrix.rows],
            matrix.headings,
            limits=limits,
            framed=framed,
            divide_at=len(matrix.tasks) if matrix.probes else None,
            ylabel="after stage",
        ),
    )


def _bounded(scores: Array, loss: bool) -> bool:
    """Whether a column holds scores from 0 to 1."""
    known = scores[np.isfinite(scores)]
    return not loss and bool(((known >= 0) & (known <= 1)).all())


def _of_row(scores: Array, bounded: list[bool]) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Mean, interval and number of the seeds' scores; the interval of scores stays between 0 and 1."""
    mean, low, high, count = over_seeds(scores)
    return mean, np.where(bounded, np.maximum(low, 0), low), np.where(bounded, np.minimum(high, 1), high), count


def _cells(mean: Array, low: Array, high: Array) -> list[str]:
    return [
        "-" if not math.isfinite(m) else f"{m:.3f}" + (f"\n{_interval(a, b)}" if math.isfinite(a) else "")
        for m, a, b in zip(mean, low, high, strict=True)
    ]


def _interval(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}" if high > low else "all equal"
