"""The part of a report's page about evaluations inside stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lit_sdpo.functional import mean_with_interval
from lit_sdpo.report.curves import WINDOW, by_place
from lit_sdpo.report.html import Markup, element, join, table, text
from lit_sdpo.report.items import Record
from lit_sdpo.report.study import Study

#: Fewer seeds say too little of how they spread.
FEWEST_SEEDS = 3
INSIDE = {
    "min_accuracy": "least accuracy later",
    "stability_gap": "stability gap",
    "windowed_forgetting": f"largest fall within {WINDOW} evaluations",
    "windowed_plasticity": f"largest rise within {WINDOW} evaluations",
    "learning_curve_area": "mean height while trained",
    "average_min_accuracy": "min-ACC",
    "worst_case_accuracy": "WC-ACC",
}


def inside_stages(study: Study) -> Markup:
    """What evaluations inside stages say of each method and task."""
    rows = []
    for method in study.methods:
        found = by_place(study.runs(method))
        for place in dict.fromkeys(place for place, _ in found):
            cells = [_over_seeds(found.get((place, name), [])) for name in INSIDE]
            rows.append([method, place, *cells])
    if not rows:
        return element("p", "No run was evaluated inside its stages, as data.eval_every does.", class_="quiet")
    explained = (
        "Least accuracy: at any evaluation after the task's own stage. Stability gap: from the end of its stage to the "
        "lowest point of the next one. With one seed the interval is over the prompts, of the evaluations that make "
        "the number; the lowest of many is too low by noise alone, the more so the more evaluations there are. From "
        "three seeds on it is Student's, over the seeds."
    )
    header = ["method", "stage", *INSIDE.values()]
    columns = ["", "whole", *["number"] * len(INSIDE)]
    return join([element("p", explained), table(header, rows, label="Inside stages", columns=columns)])


def _over_seeds(records: Sequence[Record]) -> Markup:
    values = torch.tensor([record["value"] for record in records], dtype=torch.float64)
    values = values[~values.isnan()]
    if not len(values):
        return text("-")
    mean, low, high = float(values.mean()), math.nan, math.nan
    if len(values) >= FEWEST_SEEDS:
        mean, low, high = mean_with_interval(values)
    elif len(records) == 1:
        low, high = (float(records[0].get(end, math.nan)) for end in ("low", "high"))
    if math.isnan(low):
        return text(f"{mean:.3f}")
    return join([f"{mean:.3f}", element("div", f"[{low:.3f}, {high:.3f}]", class_="quiet")])
