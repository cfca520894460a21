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


@pytest.mark.parametrize(
    "text",
    [
        solution(GRID).replace('"Name": "Eric"', '"Name": "Bob", "Name": "Eric"'),
        solution(GRID).replace('"Name": "Eric"', '"Name": "Eric", "name ": "Eric"'),
        solution(GRID)[:-2] + ', "house 2": {"Name": "Bob", "Pet": "cat"}}}',
        solution(WRONG)[:-1] + ', "solution": ' + json.dumps(GRID) + "}",
    ],
)
def test_what_is_said_twice_is_no_answer(text):
    verdict = ZebraGrid().judge(solution(GRID) + text, json.dumps(GRID))
    assert (verdict.score, verdict.flags) == (0.0, ("wrong_format",))


def test_a_remark_that_is_said_twice_does_no_harm():
    text = '{"why": "a", "why": "b", ' + solution(GRID)[1:]
    assert ZebraGrid().judge(text, json.dumps(GRID)).score == 1.0


@pytest.mark.parametrize(
    "grid",
    [
        {},
        [GRID],
        {"House 1": {}},
        {"House 1": "Eric"},
        {"House 1": {"Name": None}},
        {"House 1": {"Name": "___"}},
        {"House 1": {"Name": " "}},
        {"House 1": {"Name": True}},
        {"House 1": {"Name": ["Eric"]}},
        {"House 1": {"Name": "Eric"}, "house 1 ": {"Name": "Bob"}},
        {"House 1": {"Name": "</think>"}},
    ],
)
def test_grids_that_every_solution_or_none_would_match_are_refused(grid):
    with pytest.raises(ValueError, match=r"\w"):
        ZebraGrid().reference(json.dumps(grid), {})
