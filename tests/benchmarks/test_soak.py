"""The soak at its smallest: killed late once, with what keeps the most state; and that it can tell runs apart."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.soak import VARIANTS, Moment, differences

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_that_is_killed_late_ends_as_if_it_had_not_been():
    command = [sys.executable, "-m", "benchmarks.soak", "--variants", "monitors", "--kills", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "identical after 1 kills"


def test_what_differs_is_named():
    one = {"weights": [torch.zeros(2), torch.tensor([torch.nan])], "files": {"a": b"x"}, "seconds": 1.0}
    other = {"weights": [torch.ones(2), torch.tensor([torch.nan])], "files": {"a": b"y", "b": b""}, "seconds": 2.0}
    assert differences(one, one) == []
    assert differences(one, other) == ["/weights/0", "/files/a", "/files/b"]


def test_a_late_moment_waits_for_checkpoints():
    class Fixed:
        def uniform(self, low, high):
            return high

        def randint(self, low, high):
            return 2

    early, late = (Moment(Fixed(), 10.0, late=late) for late in (False, True))
    assert [early.has_come(seconds, 0) for seconds in (6.9, 7.0)] == [False, True]
    assert [late.has_come(*at) for at in ((50.0, 1), (60.0, 2), (60.9, 5), (61.0, 5))] == [False, False, False, True]


def test_every_variant_is_in_the_table_of_the_page():
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    table = page.partition("`--variants all`")[2].partition("\n## ")[0]
    assert [name for name in VARIANTS if f"| `{name}`" not in table] == []
