from __future__ import annotations

import csv
import math

from lit_sdpo.report.tables import Matrix, MatrixRow, show

MATRIX = Matrix(
    ["a|b", "c"],
    ["p"],
    [
        MatrixRow(0, "base", 0, {"a|b": 0.1, "c": 1 / 3, "p": 1.0}),
        MatrixRow(1, "a|b", 5, {"a|b": 0.25, "c": math.nan}),
        MatrixRow(2, "c", None),
    ],
)


def test_markdown():
    assert MATRIX.markdown().splitlines() == [
        "| stage | step | a\\|b | c | p |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| base | 0 | 0.100 | 0.333 | 1.000 |",
        "| 1 a\\|b | 5 | **0.250** | - | - |",
        "| 2 c | - | - | **-** | - |",
    ]


def test_csv_keeps_every_digit():
    lines = list(csv.reader(MATRIX.csv().splitlines()))
    assert lines[0] == ["stage", "label", "step", "a|b", "c", "p"]
    assert lines[1] == ["0", "base", "0", "0.1", repr(1 / 3), "1.0"]
    assert float(lines[1][4]) == 1 / 3
    assert lines[2:] == [["1", "a|b", "5", "0.25", "", ""], ["2", "c", "", "", "", ""]]


def test_plain_lines_up():
    assert MATRIX.plain().splitlines() == [
        "stage  step     a|b      c      p",
        "base      0   0.100  0.333  1.000",
        "1 a|b     5  *0.250      -      -",
        "2 c       -       -     *-      -",
    ]


def test_show_says_what_is_undefined(capsys):
    show(MATRIX, {"bwt": math.nan, "average_accuracy": 0.5})
    printed = capsys.readouterr().out
    assert MATRIX.plain() in printed
    assert "bwt               undefined" in printed
    assert "average_accuracy  0.500" in printed


def test_show_draws_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    show(MATRIX, {"bwt": 0.5})
    printed = capsys.readouterr().out
    assert "┃" in printed
    assert "*0.250" in printed
