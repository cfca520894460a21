from __future__ import annotations

import json

import pytest

from lit_sdpo.rewards.strict_json import loads


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '[{"b": {"a": 1, "c": 2, "a": 3}}]',
        '{"a": 1, "\\u0061": 1}',
        "1e400",
        "[-1e400]",
        "1e-400",
        "-0.001e-999",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "9" * 5000,
        "[" * 100_000,
        '{"a":' * 100_000,
        "{'a': 1}",
        "1 2",
        "",
    ],
)
def test_what_says_nothing_certain_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        loads(text)


@pytest.mark.parametrize(
    "text",
    ['{"a": {"a": 1}, "b": [{"a": 2}, {"a": 2}]}', "0e999", "-0.0", "1.7976931348623157e308", "5e-324", "0.1", '"é"'],
)
def test_everything_else_is_json(text):
    assert loads(text) == json.loads(text)
