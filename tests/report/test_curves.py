"""Evaluations inside stages, from a run's files to the page."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lit_sdpo.functional import difference_interval, mean_interval
from lit_sdpo.report.curve_table import inside_stages
from lit_sdpo.report.curves import curve_records, curves_of
from lit_sdpo.report.evaluations import Evaluation, evaluation_lines
from lit_sdpo.report.run import Run
from lit_sdpo.report.table_files import records_csv
from tests.report.made_runs import config, on_disk, study_of

PROMPTS = 20


def prompts(right):
    """So many of the prompts are right, the first ones."""
    return {f"p{i}": [float(i < right)] for i in range(PROMPTS)}


#: Right answers of tasks a and b at the ends of the stages: before, after a, after b.
ENDS = [{"a": 4, "b": 4}, {"a": 16, "b": 4}, {"a": 14, "b": 18}]
#: In between, by stage and step; the dip of a at step 13 is over at the end.
INSIDE = {(1, 5): {"a": 10, "b": 4}, (2, 13): {"a": 6, "b": 10}, (2, 17): {"a": 12, "b": 16}}


def made(folder, *, items=True, tags=None, shift=0, **options):
    scores = [{task: prompts(n) for task, n in row.items()} for row in ENDS]
    path = on_disk(folder, scores, tags=tags, **options)
    if items:
        found = []
        for when, row in INSIDE.items():
            right = {task: n + shift for task, n in row.items()}
            shares = {task: n / PROMPTS for task, n in right.items()}
            found.append(Evaluation(*when, shares, {task: prompts(n) for task, n in right.items()}))
        (path / "curves.jsonl").write_text(evaluation_lines(found))
    return Run(path, folder.parent.name, options.get("seed", 0), config())


def values(run):
    return {(x["measure"], x["task"]): x for x in curve_records(run)}


def test_the_numbers_of_a_run(tmp_path):
    run = made(tmp_path / "grpo" / "seed=0")
    assert curves_of(run).steps.tolist() == [0, 5, 10, 13, 17, 20]
    found = {key: x["value"] for key, x in values(run).items()}
    assert found == {
        ("min_accuracy", "a"): pytest.approx(0.3),
        ("stability_gap", "a"): pytest.approx(0.5),
        ("windowed_forgetting", "a"): pytest.approx(0.5),
        ("windowed_forgetting", "b"): 0,
        ("windowed_plasticity", "a"): pytest.approx(0.6),
        ("windowed_plasticity", "b"): pytest.approx(0.7),
        ("learning_curve_area", "a"): pytest.approx((5 * 0.35 + 5 * 0.65) / 10),
        ("learning_curve_area", "b"): pytest.approx((3 * 0.35 + 4 * 0.65 + 3 * 0.85) / 10),
        ("average_min_accuracy", ""): pytest.approx(0.3),
        ("worst_case_accuracy", ""): pytest.approx(0.9 / 2 + 0.3 / 2),
    }


def test_intervals_are_over_the_prompts_of_the_evaluations_that_make_a_number(tmp_path):
    def share(right):
        return torch.tensor([float(i < right) for i in range(PROMPTS)], dtype=torch.float64)

    found = values(made(tmp_path / "grpo" / "seed=0"))
    least, gap = found["min_accuracy", "a"], found["stability_gap", "a"]
    assert (least["low"], least["high"]) == pytest.approx(mean_interval(share(6))[:2])
    assert (gap["low"], gap["high"]) == pytest.approx(difference_interval(share(6), share(16))[:2])
    assert "low" not in found["windowed_forgetting", "b"]  # a bound of 0 decides


def test_without_prompts_the_event_files_have_the_scores(tmp_path):
    steps = {0: 0, 10: 1, 20: 2}
    tags = {
        f"val/{task}/accuracy": sorted(
            [(step, ENDS[row][task] / PROMPTS) for step, row in steps.items()]
            + [(step, row[task] / PROMPTS) for (_, step), row in INSIDE.items()]
        )
        for task in "ab"
    }
    alone = made(tmp_path / "x" / "seed=0", items=False, tags=tags)
    with_items = values(made(tmp_path / "y" / "seed=0"))
    found = values(alone)
    assert {k: x["value"] for k, x in found.items()} == {
        k: pytest.approx(x["value"], abs=1e-6) for k, x in with_items.items()
    }
    assert "low" not in found["min_accuracy", "a"]


def test_a_run_that_was_evaluated_at_the_ends_alone_has_none(tmp_path):
    run = made(tmp_path / "grpo" / "seed=0", items=False)
    assert curves_of(run) is None
    assert curve_records(run) == []
    assert "data.eval_every" in inside_stages(study_of(run))


def test_the_page_has_prompts_intervals_for_one_seed_and_students_for_three(tmp_path):
    runs = [made(tmp_path / "grpo" / f"seed={seed}", seed=seed, shift=seed) for seed in range(3)]
    one, three = inside_stages(study_of(runs[0])), inside_stages(study_of(*runs))
    least = values(runs[0])["min_accuracy", "a"]
    assert f"[{least['low']:.3f}, {least['high']:.3f}]" in one
    half = 4.302653 * 0.05 / math.sqrt(3)  # of .3, .35 and .4
    assert f"[{0.35 - half:.3f}, {0.35 + half:.3f}]" in three
    assert "all tasks" in one
    assert records_csv(curve_records(runs[0])).count("\n") == 11


def test_abstentions_and_holes_go_through_the_file(tmp_path):
    found = Evaluation(1, 5, {"a": math.nan, "b": 0.5}, {"b": {"x": [1.0, math.nan], "y": [0.0]}})
    lines = [json.loads(line) for line in evaluation_lines([found]).splitlines()]
    assert [(x["task"], x["score"], x["scores"]) for x in lines] == [
        ("a", None, {}),
        ("b", 0.5, {"x": [1.0, None], "y": 0.0}),
    ]
    run = made(tmp_path / "grpo" / "seed=0")
    (run.folder / "curves.jsonl").write_text(evaluation_lines([found]))
    (again,) = run.inside
    assert math.isnan(again.scores["a"])
    assert again.items["b"]["y"] == [0.0]
