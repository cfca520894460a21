"""The clock on callbacks runs, counts each hook once, and scales a short run to the full one as it says."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import callbacks
from lit_sdpo.callbacks import CollapseMonitor


def test_the_projection_by_hand():
    hooks = callbacks.Hooks()
    hooks.seconds["A"].update({"once": 1.0, "stage": 2.0, "evaluation": 3.0, "step": 4.0})
    hooks.inside.update({"fit": 10.0, "evaluation": 3.0})
    hooks.fit.cpu_seconds, hooks.evaluation.cpu_seconds, hooks.evaluations = 50.0, 9.0, 3
    (row,), total = callbacks.projected(hooks, 2, 15, 32)
    own = 1 + 2 * 2 + 3 * 5 / 3 * 2 + 4 * 10
    assert row["s in the full run"] == pytest.approx(own)
    # 50 seconds, of which 10 are the callback's and 6 evaluations': 34 are steps.
    assert total == pytest.approx(own + 34 * 10 + 6 * 5 / 3 * 2)
    assert row["share"] == pytest.approx(own / total)


def test_a_hook_within_a_hook_counts_once_and_the_class_is_as_before(monkeypatch):
    times = iter([0.0, 5.0])
    monkeypatch.setattr("benchmarks.common.time.process_time", lambda: next(times))
    hooks, before = callbacks.Hooks(), CollapseMonitor.on_fit_end
    inner = hooks._timed("A", "on_train_start", lambda: None)
    hooks._timed("A", "on_validation_end", inner)()
    assert hooks.seconds == {"A": {"once": 0.0, "stage": 0.0, "evaluation": 5.0, "step": 0.0}}
    with hooks.watching():
        assert CollapseMonitor.on_fit_end is not before
    assert CollapseMonitor.on_fit_end is before


@pytest.mark.slow
def test_a_short_run(monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["callbacks", "--tiny"])
    callbacks.main()
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["callback"] for row in found["rows"]} == set(callbacks.MEASURING)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(found["share"])
    assert 0 < found["share"] < 1
    assert found["evaluations"] == 2
