from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from lit_sdpo.data.task import Row
from lit_sdpo.rewards import math as boxed
from lit_sdpo.rewards.math import MathBoxed, same
from lit_sdpo.rewards.registry import verifier

EQUAL = [
    ("42", "42."), ("025", "25"), ("10080", "10{,}080"), ("2220", "2,220"), ("10080", r"10,\!080"), ("27.0", "27"),
    (r"\frac{1}{2}", "0.5"), (r"\frac{1}{2}", r"\frac12"), (r"-\frac{2}{3}", r"\frac{2}{-3}"), ("3.5", r"3\frac{1}{2}"),
    ("18", r"\$18.00"), ("50", r"50\%"), ("0.5", r"50\%"), (r"90^\circ", r"90\text{ degrees}"), ("12", "12 apples"),
    ("1.6", r"1.6~\mathrm{cm}"), (r"12\pi", r"12\pi\text{ cm}^2"), ("300000000", r"3 \times 10^{8}"),
    ("5", "x=5"), ("x=5", "5"), ("f(x)=2 x", "2x"), ("y = 2x + 3", "2x+3=y"), (r"x \in [-2,7]", "[-2,7]"),
    (r"\text{even}", "Even"), (r"\text{(C)}", "C"), ("x > 2", "2 < x"), (r"(2,\infty)", "x>2"),
    (r"1 \le x < 3", "[1,3)"),
    ("(3,4)", r"\left(3,\,4\right)"), ("1,-2", r"-2 \text{ and } 1"), ("1,-2", r"x=1 \text{ or } x=-2"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"), (r"\{1,2\}", r"\{2,1\}"), ("(2,32), (8,18)", "(8,18),(2,32)"),
    (r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,-1)"), ("2516_8", "2516_{8}"), ("4:30", "4:30"),
    (r"3\sqrt{13}", r"\sqrt{117}"), ("p - q", "-q+p"), (r"\frac{x+2}{7}", r"\frac{1}{7}(x+2)"), (r"2\pi", "2\u03c0"),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"), ("18", "2(9)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
]  # fmt: skip
DIFFERENT = [
    ("42", "41"), (r"3\sqrt{13}", "3"), (r"4\pi", "12.566"), (r"\frac13", "0.3333333333"), (r"\sqrt{2}", "1.41421356"),
    ("5", "y=5x"), ("5", r"\neq 5"), ("5", r"\pm 5"), ("3", r"3 \text{ or } 4"), ("3", "2<x<4"),
    ("3", r"3 \text{ not }"),
    ("(3,4)", "(4,3)"), ("(6,31,-1)", "(6,31)"), (r"(2,\infty)", r"[2,\infty)"), (r"(2,\infty)", r"x\ge 2"),
    ("[1,3]", r"\{1,3\}"), (r"\{1,2,3\}", r"\{1,2\}"), ("1,-2", "1"), ("1, 3, 5, 15", "1,3,5"), ("1,2", "1,1,2"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"), ("(2,32), (8,18)", "(32,2),(18,8)"), ("2^{1009}", "2^{1008}"),
    ("p - q", "q-p"),
    ("2516_8", "2516_9"), ("10", "10_2"), ("0.0001", "0"), ("1000", "1{,}00"), ("5 cm", "5 mm"),
    ("x^2", "X^2"), ("N", "n"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    ("1", r"\text{lambda: 1}"),
    (r"\text{Tuesday}", r"\text{Monday}"), ("1", "1" * 6000), ("100,200", "200,100"),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "answer"), EQUAL)
def test_equal_answers(expected, answer):
    assert same(expected, answer)


@pytest.mark.parametrize(("expected", "answer"), DIFFERENT)
def test_different_answers(expected, answer):
    assert not same(expected, answer)


@pytest.mark.parametrize("answer", [r"9^{9^{9^{9}}}", r"(10^{9})!"])
def test_v01_a_hopeless_comparison_ends_and_scores_zero(answer):
    started = time.monotonic()
    verdict = verifier("math_boxed")(rf"\boxed{{{answer}}}", Row(id="r", messages=[], ground_truth="1"))
    assert verdict.score == 0.0
    assert time.monotonic() - started < 30


def test_no_symbolic_comparison_starts_after_the_time_is_up(monkeypatch):
    monkeypatch.setattr(boxed, "SECONDS", -1.0)
    verdict = MathBoxed().judge(r"\boxed{(x+1)^2 + 0}", "x^2+2x+1")
    assert verdict.score == 0.0
    assert verdict.flags == ("timed_out",)


def test_symbolic_comparison_works_in_a_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(same(r"a(b+c)", "ab+ac+0")))
    thread.start()
    thread.join()
    assert seen == [True]


def test_plain_answers_skip_the_symbolic_path_and_are_fast(monkeypatch):
    def symbolic(expected, answer):
        raise AssertionError("a plain answer went to the symbolic comparison")

    monkeypatch.setattr(boxed, "symbolically_equal", symbolic)
    check = MathBoxed()
    texts = [f"{'step by step. ' * 30}\\boxed{{{number}}}" for number in range(2000)]
    started = time.process_time()
    right = sum(check.judge(text, "42").score for text in texts)
    per_minute = 60 * len(texts) / (time.process_time() - started)
    assert right == 1.0
    assert per_minute > 100_000


@pytest.mark.slow
def test_math_verify_stays_out_of_this_process():
    command = (
        "import sys; from lit_sdpo import Row; from lit_sdpo.rewards.registry import verifier;"
        "row = Row(id='r', messages=[], ground_truth=r'\\sqrt{8}');"
        "print(verifier('math_boxed')(r'\\boxed{2\\sqrt{2}}', row).score, 'math_verify' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "False"]


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
