"""What the artifact monitor found, as CSV, JSON lines and a short table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lit_sdpo.report.text_table import TextTable


@dataclass(frozen=True)
class ArtifactRow:
    """One task in one evaluation.

    Attributes:
        step: Optimizer steps taken.
        stage: Number of the stage, from 1; 0 is before training.
        task: Its name.
        numbers: Name to value.
        ngrams: The most amplified n-grams, first the most certain one, as plain values.
        markers: Regular expression to its matches per response.
    """

    step: int
    stage: int
    task: str
    numbers: Mapping[str, float]
    ngrams: Sequence[Mapping[str, Any]] = field(default=())
    markers: Mapping[str, float] = field(default_factory=dict)


def artifacts_csv(rows: Sequence[ArtifactRow]) -> str:
    """A line per evaluation and task, a column per number, full precision."""
    names = list(dict.fromkeys(name for row in rows for name in row.numbers))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["step", "stage", "task", *names])
    for row in rows:
        numbers = (row.numbers.get(name, math.nan) for name in names)
        writer.writerow([row.step, row.stage, row.task, *("" if math.isnan(x) else repr(x) for x in numbers)])
    return buffer.getvalue()


def artifacts_jsonl(rows: Sequence[ArtifactRow]) -> str:
    """A line per evaluation and task with everything; what is not known is null."""
    lines = []
    for row in rows:
        numbers = {name: None if math.isnan(x) else x for name, x in row.numbers.items()}
        lines.append(json.dumps(asdict(row) | {"numbers": numbers}) + "\n")
    return "".join(lines)


def ngram_table(row: ArtifactRow) -> TextTable:
    """The most amplified n-grams; without any effect of their own in Markdown.

    Example:
        >>> one = {"ngram": "a |", "z": 3.21, "ratio": 9.5, "per_1000": 20.0, "gain": 0.25}
        >>> print(ngram_table(ArtifactRow(10, 1, "math", {}, [one])).markdown())
        | n-gram | z | times base | per 1,000 | loop gain |
        | --- | ---: | ---: | ---: | ---: |
        | a &#124; | 3.2 | 9.5 | 20 | +0.25 |
    """
    cells = []
    for one in row.ngrams:
        gain = f"{one['gain']:+.3g}" if "gain" in one else "-"
        cells.append([one["ngram"][:80], f"{one['z']:.1f}", f"{one['ratio']:.3g}", f"{one['per_1000']:.3g}", gain])
    return TextTable(["n-gram", "z", "times base", "per 1,000", "loop gain"], cells, foreign=["n-gram"])
