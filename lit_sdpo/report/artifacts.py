"""What the artifact monitor found, as CSV, JSON lines and a short table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lit_sdpo.text import escape


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


def ngram_table(row: ArtifactRow) -> str:
    """The most amplified n-grams as a Markdown table without any effect of its own.

    Example:
        >>> one = {"ngram": "a |", "z": 3.21, "ratio": 9.5, "per_1000": 20.0, "gain": 0.25}
        >>> print(ngram_table(ArtifactRow(10, 1, "math", {}, [one])))
        | n-gram | z | times base | per 1,000 | loop gain |
        | --- | ---: | ---: | ---: | ---: |
        | a &#124; | 3.2 | 9.5 | 20 | +0.25 |
    """
    lines = ["| n-gram | z | times base | per 1,000 | loop gain |", "| --- | ---: | ---: | ---: | ---: |"]
    for one in row.ngrams:
        gain = f"{one['gain']:+.3g}" if "gain" in one else "-"
        cells = f"{one['z']:.1f} | {one['ratio']:.3g} | {one['per_1000']:.3g} | {gain}"
        lines.append(f"| {escape(one['ngram'][:80])} | {cells} |")
    return "\n".join(lines)
