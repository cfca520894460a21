"""What became of the responses: how alike the base's they are, and which artifacts grew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lit_sdpo.report.charts.chart import Chart, Missing, Table
from lit_sdpo.report.charts.draw.heat import heat_maps
from lit_sdpo.report.charts.draw.violins import MOST_DOTS, violins
from lit_sdpo.report.charts.numbers import over_seeds
from lit_sdpo.report.charts.streams import Stream, extremes
from lit_sdpo.report.charts.style import short
from lit_sdpo.report.responses import ResponseRow
from lit_sdpo.report.run import Run

MEANS = ("current", "earlier")


class Point(NamedTuple):
    """One value of a violin.

    Attributes:
        seed: Of its run.
        task: Its name.
        prompt: Number of the prompt, from 0; ``None`` for the mean over the task's prompts.
        similarity: Cosine with the base's responses.
    """

    seed: int
    task: str
    prompt: int | None
    similarity: float


def similarity(stream: Stream) -> Chart | Missing:
    """Cosine of responses with the base's, by method and stage (Figure 7c and d)."""
    title = stream.title("How alike the base's responses stay")
    found: dict[str, dict[int, list[Point]]] = {}
    for method, runs in stream.runs.items():
        for run in runs:
            for row in run.responses:
                if row.task not in MEANS and "similarity" in row.numbers:
                    found.setdefault(method, {}).setdefault(row.stage, []).extend(_points(run.seed, row))
    if not found:
        why = "no response_drift.csv with similarities: train with trainer.callbacks: [ResponseDrift]"
        return Missing(stream.name("similarity"), title, why)
    stages = sorted({stage for by_stage in found.values() for stage in by_stage})
    points = [point for by_stage in found.values() for some in by_stage.values() for point in some]
    floor = [p.similarity for by_stage in found.values() for p in by_stage.get(0, []) if math.isfinite(p.similarity)]
    values = {m: [[p.similarity for p in by_stage.get(s, [])] for s in stages] for m, by_stage in found.items()}
    titles = {row.stage: tick for row, tick in zip(stream.matrix.rows, stream.ticks, strict=True)}
    groups = ["base\nagainst base" if s == 0 else titles.get(s, str(s)) for s in stages]
    last = {m: float(np.median(some[-1])) for m, some in values.items() if some[-1]}
    rows = [
        [method, stage, *value]
        for method, by_stage in found.items()
        for stage in stages
        for value in by_stage.get(stage, [])
    ]
    middle = float(np.median(floor)) if floor else None
    return Chart(
        stream.name("similarity"),
        title,
        f"Median after the last stage: {extremes(last, '.3f')}"
        + (f"; base against itself {middle:.3f}." if floor else "."),
        "Mean cosine between embeddings of a policy's and the base's responses to one prompt. "
        f"{_meaning(points)}; a violin pools {stream.seeds} and shows a spread, no interval. Violins from four points "
        f"on, points drawn up to {MOST_DOTS}; bar: the median. First group and dashed line (its median): two "
        "draws of the base against each other, so only what lies below is drift; a policy that has become more certain "
        "can lie above. Corresponds to Figure 7c and d of the paper, which lack this floor.",
        "Violins of the similarity, a group per stage and one per method.",
        Table(["method", "stage", *Point._fields], rows),
        violins(values, groups, middle, "similarity with the base\n(cosine, -1 to 1)", stream.looks),
    )


def _points(seed: int, row: ResponseRow) -> list[Point]:
    """A point per prompt, or the task's mean where the run did not write down its prompts."""
    if not row.similarities:
        return [Point(seed, row.task, None, row.numbers["similarity"].value)]
    return [Point(seed, row.task, prompt, x) for prompt, x in enumerate(row.similarities)]


def _meaning(points: Sequence[Point]) -> str:
    """What a point is, for the caption."""
    kinds = {point.prompt is None for point in points}
    if kinds == {False}:
        return "A point per prompt, task and seed"
    if kinds == {True}:
        return "A point per task (the mean of its prompts) and seed"
    return "A point per prompt, task and seed, per task and seed for runs without response_similarity.csv"


def artifacts(stream: Stream) -> list[Chart | Missing]:
    r"""Marks of one task's format in responses to others, and ``\boxed`` per response (Figure 8 and section 5.2)."""
    return [
        _artifact_map(
            stream,
            "boxed",
            stream.title("How often responses write \\boxed, by task and stage"),
            "Mean number of \\boxed{ in a response",
        ),
        _artifact_map(
            stream,
            "leakage",
            stream.title("How often another task's format leaks into responses"),
            "Share of responses with a marker of another task's format (0 to 1)",
        ),
    ]


def _artifact_map(stream: Stream, number: str, title: str, what: str) -> Chart | Missing:
    columns = stream.matrix.columns
    stages = [row.stage for row in stream.matrix.rows]
    panels, rows, finals = [], [], {}
    for method, runs in stream.runs.items():
        found = np.array([_last_of_stage(run, number)(stages, columns) for run in runs])
        if not np.isfinite(found).any():
            continue
        parts = [over_seeds(found[:, i]) for i in range(len(stages))]
        mean = np.stack([part[0] for part in parts])
        texts = [[f"{x:.2f}" if math.isfinite(x) else "-" for x in row] for row in mean]
        panels.append((short(method), mean, texts))
        finals[method] = float(np.nanmax(mean[-1])) if np.isfinite(mean[-1]).any() else math.nan
        for stage, part in zip(stages, parts, strict=True):
            rows += [[method, stage, c, *x] for c, *x in zip(columns, *part, strict=True)]
    if not panels:
        why = "no artifacts.jsonl: train with trainer.callbacks: [ArtifactMonitor]"
        return Missing(stream.name(number), title, why)
    top = max(float(np.nanmax(mean)) for _, mean, _ in panels)
    return Chart(
        stream.name(number),
        title,
        f"Highest of any task after the last stage: {extremes(finals, '.2f')}.",
        f"{what}, at the end of every stage; mean over {stream.seeds}, bright is more. Amplification is a column that "
        "brightens downwards. Frame: the task that the stage trained. Belongs to section 5.2 and Figure 8 of the "
        "paper, which gives examples only.",
        "A table per method, a row per stage and a column per task.",
        Table(["method", "stage", "task", "mean", "low", "high", "seeds"], rows),
        heat_maps(
            panels,
            [row.title for row in stream.matrix.rows],
            columns,
            limits=(0.0, max(1.0, top)),
            framed=[(i, j) for i in stages for j, c in enumerate(columns) if stream.matrix.trained(i, c)],
            divide_at=len(stream.matrix.tasks) if stream.matrix.probes else None,
            ylabel="after stage",
        ),
    )


def _last_of_stage(run: Run, number: str) -> Callable[[list[int], list[str]], list[list[float]]]:
    found = {(row.stage, row.task): row.numbers.get(number, math.nan) for row in run.artifacts}
    return lambda stages, columns: [[found.get((s, c), math.nan) for c in columns] for s in stages]
