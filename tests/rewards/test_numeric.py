from __future__ import annotations

import pytest

from lit_sdpo.rewards.numeric import NumberNear


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("3.14", "3.14159", 1.0),
        ("3.0", "3.14159", 0.0),
        (r"\frac{22}{7}", "3.14159", 1.0),
        ("1,010", "1000", 1.0),
        ("1011", "1000", 0.0),
        ("-1000", "1000", 0.0),
        (r"12.0 \text{ cm}", "12", 1.0),
        (r"9.8 \times 10^{3}", "9810", 1.0),
        ("0", "0", 1.0),
        ("0.001", "0", 0.0),
        ("about three", "3", 0.0),
        ("3 or 4", "3", 0.0),
        ("nan", "3", 0.0),
        ("9" * 5000, "3", 0.0),
        (r"0.5\%", "0.5", 0.0),
        (r"50\%", "0.5", 1.0),
        (r"50\%", "50", 1.0),
        (r"1\%", "1", 0.0),
        ("0.5", r"50\%", 1.0),
        ("50", r"50\%", 1.0),
        ("50", r"0.5\%", 0.0),
        (r"50\%", r"50.1\%", 1.0),
        (r"5 \text{ million}", "5", 0.0),
        (r"5.01 \text{ million}", "5000000", 1.0),
        (r"5 \text{ million}", r"5 \text{ billion}", 0.0),
        (r"12 \text{ m}", r"1200 \text{ cm}", 1.0),
        (r"12 \text{ m}", r"12 \text{ cm}", 0.0),
        (r"12 \text{ m}^2", r"12 \text{ m}", 0.0),
        ("5 xyz", "5", 0.0),
        ("1 2", "12", 0.0),
    ],
)
def test_tolerance(answer, truth, score):
    assert NumberNear().judge(rf"\boxed{{{answer}}}", truth).score == score


def test_the_edge_counts_as_near():
    check = NumberNear(relative=0.0, absolute=0.5)
    assert check.judge(r"\boxed{3.5}", "3").score == 1.0
    assert check.judge(r"\boxed{3.500000001}", "3").score == 0.0


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="relative has to be a number of at least 0"):
        NumberNear(relative=-1.0)
    for truth in ("three", "nan", r"\infty", "5 xyz"):
        with pytest.raises(ValueError, match="number"):
            NumberNear().reference(truth, {})
