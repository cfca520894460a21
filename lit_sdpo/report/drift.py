"""Parameter drift by type of matrix: means over the layers with their intervals, as rows, a table and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_sdpo.functional import MatrixDrift, mean_with_interval
from lit_sdpo.report.text_table import TextTable

#: How far the intervals in ``drift.md`` hold, from ``python -m benchmarks.coverage``.
SKEWED = (
    "± is half of Student's 95 % interval over the matrices. Where they differ by factors it holds the mean less "
    "often: 83 times in 100 of 8 lognormal values with a standard deviation of the logarithms of 1, 92 times of 64."
)


@dataclass(frozen=True)
class DriftRow:
    """One matrix at one time.

    Attributes:
        step: Optimizer steps taken.
        stage: Number of the stage, from 1.
        name: The parameter's name.
        kind: Type of the matrix, such as ``q_proj``.
        layer: Number of its layer, where it has one.
        drift: What was measured.
    """

    step: int
    stage: int
    name: str
    kind: str
    layer: int | None
    drift: MatrixDrift


def by_kind(rows: Sequence[DriftRow]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Mean and both ends of its 95 % interval over the layers, by type and number; one matrix has no interval."""
    kinds: dict[str, list[MatrixDrift]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row.drift)
    return {
        kind: {
            field: mean_with_interval(torch.tensor([getattr(drift, field) for drift in drifts]))
            for field in MatrixDrift._fields
        }
        for kind, drifts in kinds.items()
    }


def drift_csv(rows: Sequence[DriftRow]) -> str:
    """Full precision, one line per measurement and matrix."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["step", "stage", "name", "type", "layer", *MatrixDrift._fields])
    for row in rows:
        layer = "" if row.layer is None else row.layer
        numbers = ("" if math.isnan(x) else repr(x) for x in row.drift)
        writer.writerow([row.step, row.stage, row.name, row.kind, layer, *numbers])
    return buffer.getvalue()


def drift_table(rows: Sequence[DriftRow]) -> TextTable:
    """The means by type, with half the width of Student's interval behind them, and how far that holds."""
    kinds = by_kind(rows).items()
    cells = [[kind, *(_cell(mean, low) for mean, low, _ in numbers.values())] for kind, numbers in kinds]
    return TextTable(["type", *MatrixDrift._fields], cells, note=SKEWED)


def _cell(mean: float, low: float) -> str:
    return f"{mean:.3g}" + ("" if math.isnan(low) else f" ± {mean - low:.1g}")
