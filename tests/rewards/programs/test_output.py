from __future__ import annotations

import pytest

from lit_sdpo.rewards.programs.output import same_as_livecodebench, same_lines


@pytest.mark.parametrize(
    ("printed", "expected", "lines", "livecodebench"),
    [
        ("a\nb", "a\nb\n", True, True),
        ("\n\na\nb  \n\n", "a\nb", True, True),
        ("a\n\nb", "a\nb", False, False),
        ("a b", "a\nb", False, False),
        ("  a", "a", False, True),  # The first sees the indentation of pictures made of letters.
        ("  a\n b", "  a\n b", True, True),
        ("2.50", "2.5", True, True),
        ("2.0", "2", True, True),
        ("1e3", "1000", True, True),
        ("1.414213562", "1.41421356", True, False),
        ("1.41422", "1.41421", False, False),
        ("1.4142", "1.41421356", False, False),
        ("1000001", "1000000", False, False),
        ("3.0000001", "3", False, False),
        ("0.1 0.2", "0.10 0.20", True, True),
        ("0.1 0.2", "0.1 0.2 0.3", False, False),
        ("x 0.10", "x 0.1", False, False),
        ("1_0", "10", False, False),
        ("nan", "NaN", False, False),
        ("nan", "nan", True, True),
        ("\u0661", "1", False, False),
        ("", "0", False, False),
        ("", "", True, True),
        ("1e9999", "1e9998", False, False),
        ("YES", "yes", False, False),
    ],
)
def test_outputs(printed, expected, lines, livecodebench):
    assert same_lines(printed, expected) is lines
    assert same_as_livecodebench(printed, expected) is livecodebench
