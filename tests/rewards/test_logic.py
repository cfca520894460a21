from __future__ import annotations

import json
import time

import pytest

from lit_sdpo.rewards.logic import ZebraGrid, right_cells

GRID = {"House 1": {"Name": "Eric", "Pet": "dog"}, "House 2": {"Name": "Bob", "Pet": "cat"}}
WRONG = {"House 1": {"Name": "Bob", "Pet": "dog"}, "House 2": {"Name": "Eric", "Pet": "cat"}}


def solution(grid):
    return json.dumps({"solution": grid})


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (solution(GRID), 1.0),
        (f"The set {{Eric, Bob}}.\n```json\n{solution(GRID)}\n```\nDone.", 1.0),
        (solution(WRONG) + solution(GRID), 1.0),
        (solution(GRID) + solution(WRONG), 0.0),
        (solution(GRID) + ' {"score": 1}', 1.0),
        (solution({**WRONG, "solution": GRID}), 0.0),
        (solution(GRID)[:-1], 0.0),
        (solution([GRID]), 0.0),
        ("Eric has the dog.", 0.0),
    ],
)
def test_the_last_solution_counts(text, score):
    assert ZebraGrid().judge(text, json.dumps(GRID)).score == score


def test_cells():
    assert right_cells(WRONG, GRID) == 2
    assert right_cells({"house 1": {"name": " ERIC "}}, GRID) == 1
    assert right_cells({"House 1": {"Age": True}}, {"House 1": {"Age": "1"}}) == 0
    assert ZebraGrid().judge(solution(WRONG), json.dumps(GRID)).flags == ("cells:2/4",)


@pytest.mark.parametrize("text", ["{" * 50_000, '{"a":' * 50_000, '{"a":"' * 50_000, '{"solution": {"a": [' * 20_000])
def test_braces_without_end_do_not_cost_quadratic_time(text):
    started = time.process_time()
    assert ZebraGrid().judge(text, json.dumps(GRID)).score == 0.0
    assert time.process_time() - started < 5
