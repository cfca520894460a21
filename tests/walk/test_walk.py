"""The same few inputs of the walk each time; ``python -m tests.walk --all`` tries all of them."""

import math
import os
import subprocess
import sys
from inspect import isabstract
from pathlib import Path
from typing import Literal

import pytest

import lit_sdpo
from tests.walk.contexts import contexts
from tests.walk.options import Option, is_refused, same, values_of
from tests.walk.pairs import _named_together
from tests.walk.trial import Ended


def option(hint, base):
    return Option(("a",), "A", hint, base)


@pytest.mark.parametrize(
    ("hint", "base", "wanted"),
    [
        (int, 2, [-1, 0, 2**40, 1.5, "x", None]),
        (int | None, None, [-1, 0, 2**40, 1.5, "x"]),
        (int, 0, [-1, 2**40, 1.5, "x", None]),
        (float, 0.5, [-1.0, math.nan, math.inf, 1e-45, "x", None]),
        (bool, False, ["maybe", True, None]),
        (Literal["one", "two"], "one", ["no_such_name", "two", None]),
        (list[int], [1], ["x", 3, [], None]),
    ],
)
def test_values_come_from_the_hint(hint, base, wanted):
    found = list(values_of(option(hint, base)))
    assert len(found) == len(wanted)
    assert all(map(same, found, wanted))


@pytest.mark.parametrize(
    ("hint", "value", "refused"),
    [
        (int, None, True),
        (int | None, None, False),
        (int, "x", True),
        (int | str, "x", False),
        (int, -1, False),
        (Literal["one"], "no_such_name", True),
    ],
)
def test_what_a_hint_has_no_place_for(hint, value, refused):
    assert is_refused(option(hint, 1), value) == refused


def test_pairs_come_from_the_checks():
    together = _named_together()
    assert any({"replay_coefficient", "replay_share"} <= names for names in together)
    assert any({"eval_every", "steps"} <= names for names in together)


@pytest.mark.parametrize(
    ("code", "errors", "refused"),
    [
        (2, "INFO\nlit-sdpo: error: what\n", True),
        (2, "lit-sdpo: error: what\nmore\n", False),
        (2, "Traceback (most recent call last):\nlit-sdpo: error: what\n", False),
        (2, "what\n", False),
        (1, "lit-sdpo: error: what\n", False),
    ],
)
def test_a_refusal_is_one_line(code, errors, refused):
    assert Ended(code, errors, 0.0).refused == refused


@pytest.mark.slow
def test_every_public_class_that_a_configuration_names_has_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {context.name for context in contexts()} | {"GRPO"}
    kinds = (lit_sdpo.OnPolicyModule, lit_sdpo.Teacher, lit_sdpo.Task)
    public = [getattr(lit_sdpo, name) for name in lit_sdpo.__all__]
    found = [each for each in public if isinstance(each, type) and issubclass(each, kinds) and each not in kinds]
    assert len(found) > 12
    assert [each.__name__ for each in found if each.__name__ not in names and not isabstract(each)] == []


def test_a_sample_of_the_walk():
    command = [sys.executable, "-m", "tests.walk", "--sample", "20"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    made = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert made.stdout.splitlines()[-1:] == ["20 right, 0 wrong"], made.stdout[-3000:] + made.stderr[-2000:]
