from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from lit_sdpo.rewards.tool_calls.verifier import Call, FunctionCalls, ReactCalls, read_calls, write_calls

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


ARGUMENTS = '{"ip": "1.2.3.4"}'
PLAIN = f"Action: checkIP\nAction Input: {ARGUMENTS}"
ONE = json.dumps([{"Action": "checkIP", "Action_Input": ARGUMENTS}])


@pytest.mark.parametrize(
    ("text", "misses"),
    [
        (PLAIN.replace("Action:", "**Action:**"), ["bold_label"]),
        (PLAIN.replace("Action:", "**Action**:").replace("Action Input:", "__Action Input__:"), ["bold_label"]),
        (PLAIN.replace("Action", "  Action"), ["indented_label"]),
        (PLAIN.replace("Action", "> Action"), ["quoted_label"]),
        (PLAIN.replace("Action", "- Action"), ["listed_label"]),
        (PLAIN.replace("Action:", "### Action:"), ["heading_label"]),
        (PLAIN.replace("Action Input", "Action_input"), ["spelled_label"]),
        (PLAIN.replace("\n", "\r\n \r\n\r\n"), ["blank_line"]),
        (PLAIN.replace(ARGUMENTS, f"\n```json\n{ARGUMENTS}\n```"), ["fenced_json"]),
        (PLAIN.replace(ARGUMENTS, f"`{ARGUMENTS}`"), ["fenced_json"]),
        (PLAIN.replace("checkIP", "`checkIP`"), ["marked_name"]),
        (PLAIN.replace("checkIP", "checkIP()"), ["parentheses"]),
        (
            f"1. **Action:** checkIP\n\n   **Action Input:** {ARGUMENTS}",
            ["listed_label", "bold_label", "indented_label"],
        ),
    ],
)
def test_near_misses_score_nothing_and_are_flagged(text, misses):
    verdict = ReactCalls().judge(text, ONE)
    assert verdict.score == 0.0
    assert {f"near_miss:{miss}" for miss in misses} <= set(verdict.flags)
    wrong = ReactCalls().judge(text.replace("1.2.3.4", "4.3.2.1"), ONE)
    assert wrong == replace(verdict, flags=verdict.flags[: len(wrong.flags)])
    assert not any(flag.startswith("near_miss") for flag in wrong.flags)


def test_near_misses_of_functions():
    truth = json.dumps({"functions": FUNCTIONS, "possible_answers": ANSWERS})
    verdict = FunctionCalls().judge('**Action:** geo.area\nAction Input: {"base": 10, "height": 5}', truth)
    assert (verdict.score, verdict.flags[-1]) == (0.0, "near_miss:bold_label")
    assert FunctionCalls().judge('Action: geo.area\nAction Input: {"base": 10, "height": 5}', truth).flags == ()


@pytest.mark.parametrize(
    "arguments",
    [
        '{"ip": "0", "ip": "1.2.3.4"}',
        '{"ip": "1.2.3.4", "\\u0069p": "1.2.3.4"}',
        '{"ip": {"a": 1, "b": [{"c": 1, "c": 1}]}}',
        '{"ip": 1e400}',
        '{"ip": -1e400}',
        '{"ip": 1e-400}',
        '{"ip": Infinity}',
        '{"ip": ' + "9" * 5000 + "}",
    ],
)
def test_arguments_that_say_nothing_certain(arguments):
    truths = [ONE, json.dumps([{"Action": "checkIP", "Action_Input": '{"ip": {"a": 1, "b": [{"c": 1}]}}'}])]
    for truth in truths:
        verdict = ReactCalls().judge(f"Action: checkIP\nAction Input: {arguments}", truth)
        assert (verdict.score, verdict.flags) == (0.0, ("wrong_format",))
    with pytest.raises(ValueError, match=r"twice|double|JSON"):
        ReactCalls().reference(json.dumps([{"Action": "checkIP", "Action_Input": arguments}]), {})


@pytest.mark.parametrize(
    "text", ["> " * 100_000, "Action: a\n\n" * 20_000, "Action Input: ```\n" * 20_000, "}```" * 50_000]
)
def test_near_misses_are_looked_for_in_linear_time(text):
    started = time.process_time()
    assert ReactCalls().judge(text, ONE).score == 0.0
    assert time.process_time() - started < 3


def call(name="a", arguments="{}"):
    return json.dumps([{"Action": name, "Action_Input": arguments}])


@pytest.mark.parametrize(
    "truth",
    [
        "[]",
        "{}",
        "null",
        "[1]",
        call(""),
        call(" a"),
        call("a\nb"),
        call(arguments="[]"),
        call(arguments='{"x": "</think>"}'),
    ],
)
def test_calls_that_every_text_or_none_would_match_are_refused(truth):
    with pytest.raises(ValueError, match=r"\w"):
        ReactCalls().reference(truth, {})


def possible(answers, required=("base",), category="simple"):
    tool = {"name": "geo.area", "parameters": {"properties": {"base": {"type": "integer"}}, "required": list(required)}}
    return json.dumps({"category": category, "functions": [tool], "possible_answers": answers})


@pytest.mark.parametrize(
    "truth",
    [
        possible([]),
        possible([{}]),
        possible([{"geo.area": {"base": []}}]),
        possible([{"geo.area": {"base": ["", ""]}}], required=["base", "height"]),
        possible([{"geo.volume": {"base": [1]}}]),
        possible([{"geo.area": None}]),
        possible([{"geo.area": {"base": [1.5]}}]),
        '{"functions": [], "possible_answers": [], "possible_answers": []}',
        "[]",
    ],
)
def test_possible_answers_that_every_text_or_none_would_match_are_refused(truth):
    with pytest.raises(ValueError, match=r"\w"):
        FunctionCalls().reference(truth, {})


def test_possible_answers_of_other_shapes_that_can_be_met():
    for truth in (
        possible([], category="live_irrelevance"),
        possible([{"geo.area": {"base": [1.0]}}]),
        possible([{"geo.area": {"base": 1}}]),
    ):
        assert FunctionCalls().judge(FunctionCalls().reference(truth, {}), truth).score == 1.0
