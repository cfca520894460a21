from __future__ import annotations

import csv
import math

import pytest
import torch

from lit_sdpo.functional import difference_interval, mcnemar, mean_interval
from lit_sdpo.report.items import change_records, detectable, detectable_at, known, records_csv, score_records
from lit_sdpo.report.tables import Matrix, MatrixRow

MATRIX = Matrix(
    ["a"],
    ["p"],
    [
        MatrixRow(0, "base", 0, {"a": 0.5, "p": 0.0}),
        MatrixRow(1, "a", 4, {"a": 0.75, "p": math.nan}),
        MatrixRow(2, "b", 8, {"a": 0.25, "p": 0.5}),
    ],
)
BEFORE = {"1": [1.0], "2": [1.0], "3": [0.0], "4": [0.0], "gone": [1.0]}
AFTER = {"4": [1.0], "3": [0.0], "2": [0.0], "1": [0.0], "new": [1.0]}


def test_current_and_last_in_percent_of_the_base():
    records = {(r["stage"], r["task"]): r for r in score_records(MATRIX, {})}
    assert [records[i, "a"]["relative_change"] for i in (0, 1, 2)] == pytest.approx([0, 50, -50])
    assert [records[i, "a"]["gain"] for i in (1, 2)] == pytest.approx([50, 0])
    assert [records[i, "a"]["forgetting"] for i in (1, 2)] == pytest.approx([0, 50])
    assert math.isnan(records[2, "p"]["relative_change"])  # from 0
    assert records[1, "p"]["undefined"] == "the logged score is nan"
    assert [records[i, "a"]["trained"] for i in (0, 1, 2)] == [0, 1, 0]
    assert "low" not in records[0, "a"]


def test_scores_of_prompts():
    samples = {str(i): [1.0] * (i % 5) + [0.0] * (4 - i % 5) for i in range(40)}
    (record, *_) = score_records(MATRIX, {0: {"a": samples}})
    share = torch.tensor([(i % 5) / 4 for i in range(40)])
    assert (record["low"], record["high"], record["interval"]) == pytest.approx(mean_interval(share))
    assert record["pass@2"] == pytest.approx((0 + 1 / 2 + 5 / 6 + 1 + 1) / 5)
    assert record["pass@4"] == pytest.approx(4 / 5)
    assert (record["items"], record["samples"]) == (40, 4)
    assert "pass@8" not in record


def test_prompts_are_matched_by_id():
    items = {0: {"a": BEFORE}, 1: {"a": BEFORE}, 2: {"a": AFTER}}
    records = change_records(MATRIX, items, {"a": 2})
    assert [(r["stage"], r["since"]) for r in records] == [(1, "base"), (2, "own stage"), (2, "base")]
    own = records[1]
    assert (own["items"], own["before"], own["after"], own["change"]) == (4, 0.5, 0.25, -0.25)
    assert (own["lost"], own["won"], own["by_guessing"]) == (0.5, 0.25, 0.375)
    assert (own["lost_true"], own["won_true"]) == (0.125, 0.0)
    assert own["won"] - own["lost"] == own["change"]
    assert own["mcnemar"] == mcnemar(2, 1)
    assert math.isnan(own["by_sampling"])
    expected = difference_interval(torch.tensor([1.0, 1, 0, 0]).double(), torch.tensor([0.0, 0, 0, 1]).double())
    assert (own["low"], own["high"], own["interval"]) == pytest.approx(expected)


def test_a_model_that_did_not_change_loses_what_sampling_moves():
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(2, 2000, 4, generator=generator) < 0.3).float().tolist()
    samples = [{str(i): row for i, row in enumerate(rows)} for rows in drawn]
    (record, *_) = change_records(MATRIX, {0: {"a": samples[0]}, 1: {"a": samples[1]}}, {})
    assert record["lost"] == pytest.approx(0.21, abs=0.01)
    assert record["by_sampling"] == pytest.approx(0.21, abs=0.01)
    assert record["low"] < 0 < record["high"]
    assert "mcnemar" not in record
    assert "lost_true" not in record


def test_scores_that_are_no_shares_have_no_transitions():
    items = {0: {"a": {"1": [20.0], "2": [80.0]}}, 1: {"a": {"1": [30.0], "2": [85.0]}}}
    (record,) = change_records(MATRIX, items, {})
    assert record["change"] == 7.5
    assert "lost" not in record
    assert detectable(items[0]["a"]) is None


def test_losses_are_no_shares_wherever_they_lie():
    rows = [MatrixRow(0, "base", 0, {"a": 0.5, "x": 0.4}), MatrixRow(1, "a", 4, {"a": 0.5, "x": 0.5})]
    matrix = Matrix(["a"], ["x"], rows, ["x"])
    items = {0: {"x": {"1": [0.3], "2": [0.5]}}, 1: {"x": {"1": [0.5], "2": [0.5]}}}
    record = score_records(matrix, items)[-1]
    assert (record["interval"], record["gain"]) == ("no spread", 0)
    assert record["forgetting"] == pytest.approx(25)
    (change,) = change_records(matrix, items, {})
    assert (change["interval"], "lost" in change) == ("t", False)
    assert change["change"] == pytest.approx(0.1)
    assert change["high"] == pytest.approx(0.1 + 12.7062 * 0.1, rel=1e-4)


def test_what_can_be_detected():
    half = {str(i): [1.0, 0.0] for i in range(100)}
    found = detectable(half)
    assert (found.prompts, found.samples, found.rate, found.measured) == (100, 2, 0.5, True)
    assert found.change == pytest.approx(2.8016 * math.sqrt(2 * 0.5 / 200), rel=1e-4)
    single = detectable({str(i): [float(i < 30)] for i in range(100)})
    assert single.change == pytest.approx(2.8016 * math.sqrt(2 * (31 / 102) * (71 / 102) / 100), rel=1e-4)
    solved = detectable({str(i): [1.0, 1.0] for i in range(100)})
    assert 0 < solved.change < found.change
    assert detectable_at(100, 1).change > detectable_at(100, 2).change > detectable_at(200, 2).change


def test_abstentions_and_csv():
    assert known({"1": [math.nan, 0.5], "2": [math.nan]}) == {"1": [0.5]}
    text = records_csv([{"a": 1, "b": math.nan}, {"a": 0.1, "c": "x,y"}])
    assert list(csv.reader(text.splitlines())) == [["a", "b", "c"], ["1", "", ""], ["0.1", "", "x,y"]]
    assert records_csv([]) == "\n"
