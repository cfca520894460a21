"""Finished runs that lie nowhere, for simulations of what a report makes of runs: what their files say is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_sdpo.report.run import Run
from lit_sdpo.report.tables import Matrix, MatrixRow

Array = NDArray[np.float64]


def made_run(
    method: str,
    seed: int,
    scores: Sequence[Mapping[str, Array]] = (),
    labels: Sequence[str] = ("a",),
    probes: Sequence[str] = (),
    *,
    steps: int = 10,
    config: Mapping[str, Any] | None = None,
    **files: Any,
) -> Run:
    """A run with the scores of every prompt, row by row and column by column, and whatever else is given.

    Args:
        method: Its method.
        seed: Its seed.
        scores: Of each row of the matrix, column to the scores of its prompts [n], one sample each.
        labels: Tasks of the stages.
        probes: Columns that are probes.
        steps: Steps of a stage.
        config: Its configuration.
        **files: What it reads from its other files, by the name of the attribute.
    """
    run = Run(Path(f"{method}/seed={seed}"), method, seed, config or {})
    rows = [
        MatrixRow(i, label, i * steps, {c: float(x.mean()) for c, x in scores[i].items()} if scores else {})
        for i, label in enumerate(["base", *labels])
    ]
    given = {"matrix": Matrix(list(dict.fromkeys(labels)), list(probes), rows), "items": {}, "tags": {}}
    if scores:
        given["items"] = {
            i: {c: {str(n): [v] for n, v in enumerate(x.tolist())} for c, x in row.items()}
            for i, row in enumerate(scores)
        }
    vars(run).update(given | {"drift": [], "responses": [], "artifacts": [], "distances": {}} | files)
    return run
