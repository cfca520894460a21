"""Columns of the data as privileged context: who sees them, and who does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_sdpo.errors import UserError
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.teacher_prompts import teacher_prompts
from tests.modules.test_base import Record
from tests.rollouts.test_reprompt import Words, rollouts
from tests.training import Toy, Watch, assert_equal, fit, method, toy_data, weights

HINT = "zebra"


def with_column(given_rollouts, texts, name="hint"):
    rows = [replace(row, extra={name: text}) for row, text in zip(given_rollouts.rows, texts, strict=True)]
    return replace(given_rollouts, rows=rows)


def sources(reprompt, made):
    found = reprompt.contexts(made, Words())
    return found.sources, [None if m is None else m[-1]["content"] for m in found.messages]


@pytest.mark.parametrize(
    ("demonstration", "expected"),
    [
        ("sibling", ["none", "sibling", "none", "none"]),
        ("column", ["column", "column", "none", "none"]),
        ("sibling_then_column", ["column", "sibling", "none", "none"]),
    ],
)
def test_what_is_shown(demonstration, expected):
    """Two questions with two completions; the second has no success and a blank column."""
    made = with_column(rollouts(["4", "5", "6", "7"], [1, 0, 0, 0], generations=2), [HINT, " \n"])
    column = {} if demonstration == "sibling" else {"column": "hint"}
    found, contents = sources(Reprompt(demonstration=demonstration, **column), made)
    assert found == expected
    for source, content in zip(found, contents, strict=True):
        assert (content is None) == (source == "none")
        assert (HINT in (content or "")) == (source == "column")


def test_a_column_has_a_template_of_its_own():
    made = with_column(rollouts(["4", "5"], [1, 0]), [HINT])
    reprompt = Reprompt(demonstration="sibling_then_column", column="hint", column_template=" Hint: {solution}.")
    _, contents = sources(reprompt, made)
    assert f" Hint: {HINT}." in contents[0]
    assert "Correct solution:\n\n4" in contents[1]


def test_a_teacher_is_never_told_what_it_judges():
    made = with_column(rollouts([f" {HINT}", "<think>so</think> zebra", "5"], [0, 0, 0]), [HINT])
    reprompt = Reprompt(demonstration="column", column="hint")
    assert sources(reprompt, made)[0] == ["none", "none", "column"]
    assert sources(replace(reprompt, allow_own=True), made)[0] == ["column"] * 3


def test_feedback_takes_the_place_of_a_missing_column():
    made = with_column(rollouts(["4", "5"], [0, 0], feedback=["no", "no"], generations=1), [HINT, ""])
    reprompt = Reprompt(demonstration="column", column="hint", use_feedback=True)
    assert sources(reprompt, made)[0] == ["column", "feedback"]


def test_a_long_column_loses_its_beginning():
    made = with_column(rollouts(["4"], [0]), [" ".join(["word"] * 60) + " end"])
    found = Reprompt(demonstration="column", column="hint", max_context_tokens=30).contexts(made, Words())
    assert found.truncated == 1
    assert "end" in found.messages[0][-1]["content"]


def test_earlier_names_mean_the_same():
    assert Reprompt(demonstration="first") == Reprompt()
    assert Reprompt(demonstration="random") == Reprompt(choice="random")
    short = Reprompt(dataset_demonstrations=True)
    assert (short.demonstration, short.column) == ("sibling_then_column", "reference")
    assert replace(short, use_feedback=False) == short


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"demonstration": "column"}, "reprompt.column"),
        ({"column": "hint"}, "reprompt.column"),
        ({"column_template": "{solution}"}, "reprompt.column_template"),
        ({"demonstration": "column", "column": "hint", "column_template": "x"}, "reprompt.column_template"),
        ({"demonstration": "column", "column": "hint", "dataset_demonstrations": True}, "reprompt.demonstration"),
    ],
)
def test_options_that_do_nothing_are_refused(options, where):
    with pytest.raises(UserError) as caught:
        Reprompt(**options)
    assert caught.value.where == where


def test_a_column_that_is_no_text_is_refused():
    made = with_column(rollouts(["4"], [0]), [["a", "list"]])
    with pytest.raises(UserError, match="of row '0' is no text"):
        Reprompt(demonstration="column", column="hint").contexts(made, Words())


class Hinted(Toy):
    """Rows that carry a secret in every field but the prompt."""

    def rows(self, split):
        return [
            replace(row, extra={"hint": f"{HINT} {row.id}", "solution": HINT}, reference=HINT, ground_truth=HINT)
            for row in super().rows(split)
        ]


@pytest.mark.parametrize("column", ["hint", "reference"])
def test_the_student_never_sees_it(tmp_path, tiny, column):
    """What is sampled, and with which weights it ends, is what a run without the column's text has sampled."""
    watch, record, windows = Watch(), Record(), []
    module = method("sdpo", tiny, reprompt=Reprompt(demonstration="column", column=column))
    prepare = module.prepare_rollouts
    module.prepare_rollouts = lambda made: windows.append(prepare(made)) or windows[-1]
    fit(tmp_path / "with", module, toy_data([Hinted(score=lambda text: 0.0)]), watch, record)
    (seen,) = watch.of("train")
    read = module.tokenizer.batch_decode(seen["rollouts"].prompt_ids)
    assert not any(HINT in text for text in read)
    assert not any(HINT in text for text in module.tokenizer.batch_decode(windows[0].prompt_ids))
    assert all(HINT in text for text in module.tokenizer.batch_decode(windows[0].teacher_prompt_ids))
    logged = record.logged[0]
    assert logged["sdpo/context_source/column"] == 1
    assert sum(value for name, value in logged.items() if name.startswith("sdpo/context_source/")) == 1
    other = Watch()
    plain = method("sdpo", tiny)
    fit(tmp_path / "without", plain, toy_data([Toy(score=lambda text: 0.0)]), other)
    assert other.of("train")[0]["rollouts"].texts == seen["rollouts"].texts
    assert any((p != weights(plain)[name]).any() for name, p in weights(module).items())


def test_siblings_alone_are_what_they_were(tmp_path, tiny):
    """A column that is there and not asked for changes nothing."""
    modules = []
    for name, task in (("with", Hinted()), ("without", Toy())):
        modules.append(method("sdpo", tiny))
        fit(tmp_path / name, modules[-1], toy_data([task]))
    assert_equal(*map(weights, modules))


def test_a_column_that_no_row_has_is_refused_before_the_first_step(tmp_path, tiny):
    watch = Watch()
    module = method("sdpo", tiny, reprompt=Reprompt(demonstration="column", column="hnt"))
    with pytest.raises(UserError, match=r"no training row of the task 'toy'.*hint, solution, reference"):
        fit(tmp_path, module, toy_data([Hinted()]), watch)
    assert not watch.seen


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4),
    columns=st.lists(st.one_of(st.none(), st.sampled_from(["", HINT, "4", "a b c"])), min_size=2, max_size=2),
    reads=st.lists(st.sampled_from(["question", "privileged", "privileged_or_question"]), min_size=4, max_size=4),
    demonstration=st.sampled_from(["column", "sibling_then_column"]),
)
def test_sources_are_what_the_prompts_hold(scores, columns, reads, demonstration):
    made = with_column(rollouts(["4", "5", "6", "7"], scores, generations=2), columns)
    reprompt = Reprompt(demonstration=demonstration, column="hint")
    found = teacher_prompts(made, reprompt, reads, Words())
    for n, (ids, source) in enumerate(zip(found.ids, found.sources, strict=True)):
        own = made.prompt_ids[n // 2]
        assert (ids is None) == (source == "none")
        assert (ids == own) == (source == "question")
        assert source != "question" or reads[n] != "privileged"
        assert source not in ("sibling", "column") or reads[n] != "question"
        if source == "column":
            assert columns[n // 2].split()[0] in ids
            assert columns[n // 2] != made.texts[n]
