import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_sdpo.data.micro.interpreter import RefusedError, evaluate, run

QUOTED = st.text("abcXY *-", max_size=4).map(repr)
NUMBER = st.one_of(st.just(""), st.integers(-5, 5).map(str))
CHANGE = st.one_of(
    st.sampled_from([".upper()", ".lower()"]),
    st.tuples(QUOTED, QUOTED).map(lambda pair: ".replace({}, {})".format(*pair)),
    st.tuples(NUMBER, NUMBER, st.sampled_from(["", ":", ":2", ":-1", ":-3"])).map(lambda n: f"[{n[0]}:{n[1]}{n[2]}]"),
)
VALUE = st.tuples(st.one_of(st.just("s"), QUOTED), st.lists(CHANGE, max_size=3)).map(lambda v: v[0] + "".join(v[1]))
PRODUCT = st.tuples(VALUE, st.sampled_from(["", " * 2", "*3", " * 0"])).map("".join)
SUM = st.lists(PRODUCT, min_size=1, max_size=3).map(" + ".join)


def outcome(source, inputs):
    try:
        return run(source, inputs)
    except RefusedError as refusal:
        return str(refusal)


@settings(deadline=None)
@given(SUM, st.text("abcXYZ -", max_size=8))
def test_evaluates_as_python_does(expression, s):
    expected = eval(expression, {"__builtins__": {}}, {"s": s})
    if len(expected) < 200:
        assert evaluate(expression, s) == expected


@settings(deadline=None)
@given(st.lists(SUM, max_size=3), SUM)
def test_runs_as_python_does(statements, result):
    source = "\n".join(["def f(s):", *(f"    s = {statement}" for statement in statements), f"    return {result}"])
    scope = {}
    exec(source, {"__builtins__": {}}, scope)
    expected = [scope["f"](s) for s in ("", "aBc")]
    assert outcome(source, ["", "aBc"]) in (expected, "a text grows too long")


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "t",
        "s.strip()",
        "s +",
        "+ s",
        "s s",
        "__import__('os')",
        "s[0]",
        "s[::0]",
        "s * -1",
        "f(s)",
        "s.upper",
        "'a",
    ],
)
def test_refuses_what_is_not_in_the_grammar(expression):
    with pytest.raises(RefusedError):
        evaluate(expression, "abc")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "head"),
        ("def g(s):\n    return s", "head"),
        ("def f(s):\n    s = s", "never returns"),
        ("def f(s):\n    import os\n    return s", "not understood"),
        ("def f(s):\nreturn s", "not understood"),
        ("def f(s):\n" + "    s = s + s\n" * 60 + "    return s", "too long"),
        ("def f(s):\n    s = s * 999\n    return s", "too long"),
        ("def f(s):\n    s = " + "s + " * 400 + "s\n    return s", "too long"),
        ("def f(s):\n    return s.replace('', 'x' * 9)", "not understood"),
    ],
)
def test_refusals_say_why(source, reason):
    with pytest.raises(RefusedError, match=reason):
        run(source, ["abc"])


def test_what_follows_a_return_is_not_run():
    assert run("def f(s):\n    return s.upper()\n\n    return s * 999", ["ab"]) == ["AB"]


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_run_or_refused(text):
    for source in (text, "def f(s):\n    return " + text, "def f(s):\n    s = s" + text):
        assert isinstance(outcome(source, ["abc", ""]), (list, str))
