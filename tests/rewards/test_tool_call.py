from __future__ import annotations

import json

import pytest

from lit_sdpo.rewards.tool_call import Call, FunctionCalls, ReactCalls, read_calls, write_calls

CALLS = [Call("checkIP", {"ip": "1.2.3.4"}), Call("report", {"ip": "1.2.3.4", "tags": ["a", "b"], "n": 1, "ok": True})]
TRUTH = json.dumps([{"Action": c.name, "Action_Input": json.dumps(c.arguments)} for c in CALLS])


def changed(index, **arguments):
    calls = list(CALLS)
    calls[index] = Call(calls[index].name, {**calls[index].arguments, **arguments})
    return calls


@pytest.mark.parametrize(
    ("calls", "score"),
    [
        (CALLS, 1.0),
        (CALLS[::-1], 1.0),
        (CALLS[:1], 0.0),
        ([*CALLS, CALLS[0]], 0.0),
        ([CALLS[0], CALLS[0]], 0.0),
        (changed(1, tags=["b", "a"]), 0.0),
        (changed(1, n="1"), 0.0),
        (changed(1, n=True), 0.0),
        (changed(1, ok=1), 0.0),
        (changed(0, extra=None), 0.0),
        (changed(0, ip="1.2.3.5"), 0.0),
        ([], 0.0),
    ],
)
def test_calls_are_compared_as_a_multiset(calls, score):
    assert ReactCalls().judge(write_calls(calls), TRUTH).score == score


@pytest.mark.parametrize(
    "text",
    [
        'Thought: hm\r\nAction: a.b-c\r\nAction Input: {"x": {"y": 1}}',
        'Action: a.b-c\nAction Input:\n{\n  "x": {"y": 1}\n}\nObservation: none',
    ],
)
def test_layouts_that_are_read(text):
    assert read_calls(text) == [Call("a.b-c", {"x": {"y": 1}})]


@pytest.mark.parametrize(
    "text",
    [
        "Action: a",
        "Action: a\nAction Input: {broken",
        "Action: a\nAction Input: {'x': 1}",
        'Action: a\nAction Input: {"x": NaN}',
        'Action: a\nAction Input: {"x": 1}\nAction Input: {"y": 1}',
        'Action: a\nAction Input: "{}"',
        'Action: a\nAction Input: {} {"x": 1}',
        'Action Input: {"x": 1}\nAction: a',
    ],
)
def test_malformed_calls_are_refused(text):
    with pytest.raises(ValueError, match="Action"):
        read_calls(text)


FUNCTIONS = [
    {
        "name": "geo.area",
        "parameters": {
            "properties": {
                "base": {"type": "integer"},
                "height": {"type": "float"},
                "unit": {"type": "string"},
                "options": {"type": "dict"},
            },
            "required": ["base", "height"],
        },
    }
]
ANSWERS = [{"geo.area": {"base": [10], "height": [5.0], "unit": ["cm", ""], "options": [{"deep": [True, ""]}, ""]}}]


@pytest.mark.parametrize(
    ("arguments", "score"),
    [
        ({"base": 10, "height": 5}, 1.0),
        ({"base": 10, "height": 5.0, "unit": "C.M."}, 1.0),
        ({"base": 10, "height": 5, "options": {"deep": True}}, 1.0),
        ({"base": 10, "height": 5, "options": {}}, 1.0),
        ({"base": 10, "height": 5, "options": {"deep": 1}}, 0.0),
        ({"base": 10.0, "height": 5}, 0.0),
        ({"base": 10}, 0.0),
        ({"base": 10, "height": 5, "unit": "mm"}, 0.0),
        ({"base": 10, "height": 5, "unit": None}, 0.0),
        ({"base": 10, "height": 5, "colour": "red"}, 0.0),
        ({"base": True, "height": 5}, 0.0),
        ({"base": 10, "height": 5, "unit": "..."}, 0.0),
    ],
)
def test_function_arguments(arguments, score):
    truth = json.dumps({"category": "multiple", "functions": FUNCTIONS, "possible_answers": ANSWERS})
    assert FunctionCalls().judge(write_calls([Call("geo.area", arguments)]), truth).score == score


def test_parallel_calls_are_matched_one_to_one():
    # The first call fits both answers, the second only the first: a greedy match would fail.
    answers = [{"geo.area": {"base": [1, 2], "height": [1]}}, {"geo.area": {"base": [1], "height": [1]}}]
    truth = json.dumps({"category": "parallel", "functions": FUNCTIONS, "possible_answers": answers})
    calls = [Call("geo.area", {"base": 1, "height": 1}), Call("geo.area", {"base": 2, "height": 1})]
    assert FunctionCalls().judge(write_calls(calls), truth).score == 1.0
    assert FunctionCalls().judge(write_calls([calls[1], calls[1]]), truth).score == 0.0


@pytest.mark.parametrize(("text", "score"), [("No tool fits.", 1.0), ("Action: geo.area\nAction Input: {}", 0.0)])
def test_irrelevance_asks_for_no_call(text, score):
    truth = json.dumps({"category": "irrelevance", "functions": FUNCTIONS, "possible_answers": []})
    assert FunctionCalls().judge(text, truth).score == score
