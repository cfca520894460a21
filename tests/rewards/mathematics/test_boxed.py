from __future__ import annotations

import math
import random
import threading
import time

import pytest

from lit_sdpo.data.task import Row
from lit_sdpo.rewards.contract import last_boxed
from lit_sdpo.rewards.mathematics.boxed import MathBoxed, same
from lit_sdpo.rewards.registry import verifier
from tests.rewards.math_pairs import DIFFERENT, EQUAL


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_equal_answers(left, right):
    assert same(left, right)
    assert same(right, left)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different_answers(left, right):
    assert not same(left, right)
    assert not same(right, left)


@pytest.mark.parametrize("answer", sorted({answer for pair in (*EQUAL, *DIFFERENT) for answer in pair}))
def test_every_answer_equals_itself_and_is_a_ground_truth(answer):
    assert same(answer, answer)
    assert MathBoxed().judge(MathBoxed().reference(answer, {}), answer).score == 1.0


def test_the_table_is_large_and_has_both_kinds():
    assert len(EQUAL) >= 150
    assert len(DIFFERENT) >= 150
    assert not {frozenset(pair) for pair in EQUAL} & {frozenset(pair) for pair in DIFFERENT}


@pytest.mark.parametrize("answer", [r"9^{9^{9^{9}}}", r"(10^{9})!"])
def test_v01_a_hopeless_comparison_ends_and_scores_zero(answer):
    started = time.monotonic()
    verdict = verifier("math_boxed")(rf"\boxed{{{answer}}}", Row(id="r", messages=[], ground_truth="1"))
    assert verdict.score == 0.0
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "answer", [r"9^{9^{9^{9}}}", r"(10^{9})!", r"\sqrt{" * 300 + "2" + "}" * 300, r"e^{e^{e^{9}}}"]
)
def test_what_is_too_large_is_not_evaluated(answer):
    started = time.process_time()
    assert not same("1", answer)
    assert time.process_time() - started < 2


def test_formulas_are_compared_in_threads():
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(same(r"a(b+c)", "ab+ac+0"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


def test_plain_answers_are_fast():
    check = MathBoxed()
    texts = [f"{'step by step. ' * 30}\\boxed{{{number}}}" for number in range(2000)]
    started = time.process_time()
    right = sum(check.judge(text, "42").score for text in texts)
    per_minute = 60 * len(texts) / (time.process_time() - started)
    assert right == 1.0
    assert per_minute > 100_000


def test_feedback_does_not_hold_the_answer():
    verdict = MathBoxed().judge(r"\boxed{7}", "424242")
    assert verdict.score == 0.0
    assert "424242" not in verdict.feedback


@pytest.mark.parametrize(
    ("extra", "reference"),
    [
        ({}, r"\boxed{4}"),
        ({"reference_solution": "2+2=4"}, "2+2=4\n\n\\boxed{4}"),
        ({"reference_solution": r"2+2=\boxed{4}"}, r"2+2=\boxed{4}"),
    ],
)
def test_reference(extra, reference):
    assert MathBoxed().reference("4", extra) == reference


@pytest.mark.parametrize("pair", [*EQUAL, *DIFFERENT], ids=str)
def test_what_is_said_at_once_is_what_is_said_with_time(pair):
    expected, answer = pair
    text = rf"\boxed{{{answer}}}"
    verdict = MathBoxed().at_once(text, expected)
    assert verdict in (None, MathBoxed().judge(text, expected))


def test_plain_numbers_need_no_worker():
    assert MathBoxed().at_once(r"\boxed{2{,}220}", "2220").score == 1.0
    assert MathBoxed().at_once(r"\boxed{\frac{1}{3}}", "0.3").score == 0.0
    assert MathBoxed().at_once("no box", "1").flags == ("no_answer",)
    assert MathBoxed().at_once(r"\boxed{9^{9}}", "1") is None
    assert MathBoxed().at_once(rf"\boxed{{{'1' * 500}}}", "1") is None


@pytest.mark.parametrize(
    ("truth", "why"),
    [
        ("", "empty"),
        ("nan", "no answer"),
        (r"\text{NaN}", "no answer"),
        ("___", "no answer"),
        ("$ $", "nothing"),
        (r"x}", "balance"),
        (r"\boxed{5}", "holds a box"),
        ("2+2=4 #### 4", "whole solution"),
    ],
)
def test_a_ground_truth_that_no_answer_equals_is_refused(truth, why):
    with pytest.raises(ValueError, match=why):
        MathBoxed().reference(truth, {})


def test_a_ground_truth_may_lack_closing_braces_at_its_end():
    truth = r"\frac{k!n!}{(k+n-1)!"
    assert MathBoxed().reference(truth, {}) == rf"\boxed{{{truth}}}}}"
    assert MathBoxed().judge(r"\boxed{\frac{n!k!}{(k+n-1)!}}", truth).score == 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{4\boxed{3}}", r"4\boxed{3}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{ \boxed{\boxed{3}} }", "3"),
        (r"\boxed{\boxed{1}\boxed{2}}", r"\boxed{1}\boxed{2}"),
        (r"\boxed{\boxed{1}}, so \boxed{2}", "2"),
        (r"\boxed{2} \boxed{cut", "2"),
        (r"\\boxed{3}", None),
        (r"a \\\boxed{3}", "3"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    ],
)
def test_the_outer_of_nested_boxes_is_the_answer(text, answer):
    assert last_boxed(text) == answer


def test_the_order_of_the_two_does_not_matter():
    answers = sorted({answer for pair in (*EQUAL, *DIFFERENT) for answer in pair})
    draw = random.Random(0)
    for _ in range(4000):
        left, right = draw.sample(answers, 2)
        assert same(left, right) == same(right, left), (left, right)


CONSTANTS = {
    r"\frac{1}{e^{500}}": 1 / math.e**500,
    "e^{-3}": math.e**-3,
    r"\sqrt{2}+\sqrt{3}": 2**0.5 + 3**0.5,
    r"\pi^2": math.pi**2,
    r"\log_2 3": math.log2(3),
    r"\sin 1": math.sin(1),
    "10^{-20}": 1e-20,
    "2^{100}": 2.0**100,
    r"\cos\frac{\pi}{5}": math.cos(math.pi / 5),
    r"\frac{1+\sqrt5}{4}": (1 + 5**0.5) / 4,
    r"\sqrt[3]{-8}": -2.0,
    r"\arctan 1": math.pi / 4,
    r"\binom{10}{3}": 120.0,
    "5!": 120.0,
    r"\lfloor \pi \rfloor": 3.0,
    r"|{-3}|": 3.0,
    r"\frac{\pi}{4}": math.pi / 4,
    r"e^{i\pi}": -1.0,
    r"7^{-30}": 7.0**-30,
    "0": 0.0,
}


def test_constants_are_equal_where_floating_point_says_so():
    for left, mine in CONSTANTS.items():
        for right, other in CONSTANTS.items():
            assert same(left, right) == math.isclose(mine, other, rel_tol=1e-9), (left, right)
