"""What the figures of retention make of losses, of which less is better."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lit_sdpo.report.charts.retention import LOSSES, by_task_learned, matrices, out_of_domain, ranks
from lit_sdpo.report.charts.streams import streams
from lit_sdpo.report.comparisons import effect
from lit_sdpo.report.measures import MEASURES
from tests.report.made_runs import flat, in_memory, study_of

COLUMNS = ("a", "p", "x")


def run(method, seed, end):
    rows = [(0.5, 0.6, 2.0), (0.9, 0.6, end)]
    made = in_memory(
        method, seed, [{c: flat(v) for c, v in zip(COLUMNS, row, strict=True)} for row in rows], ["a"], ["p", "x"]
    )
    vars(made)["matrix"] = replace(made.matrix, losses=["x"])
    return made


@pytest.fixture(scope="module")
def study():
    ends = {"grpo": 3.0, "sdpo": 2.5}
    return study_of(*(run(method, seed, end + seed / 10) for method, end in ends.items() for seed in range(3)))


def test_a_rise_of_a_loss_stands_apart_from_the_probes(study):
    (stream,) = streams(study)
    found = {(r[0], r[1], r[2]): r[5] for r in by_task_learned(stream).table.rows}
    assert found[LOSSES, "grpo", 1] == pytest.approx(100 * (3.1 - 2.0) / 2.0)
    assert found["out of domain", "grpo", 1] == pytest.approx(0)
    assert {r[1] for r in out_of_domain(stream).table.rows} == {"p"}


def test_less_loss_has_the_better_rank(study):
    (stream,) = streams(study)
    placed = {(r[0], r[1]): r[3] for r in ranks(stream).table.rows}
    assert [placed[name, "x"] for name in ("base", "sdpo", "grpo")] == [1, 2, 3]
    assert "x (loss)" in matrices(stream).svg


def test_methods_are_compared_in_their_rise(study):
    measure = MEASURES["loss_change"]
    assert measure.better == -1
    assert effect(measure, study.runs("grpo"), study.runs("sdpo")).value == pytest.approx(0.5)
