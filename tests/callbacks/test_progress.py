from __future__ import annotations

import io
import re
import sys
import threading
import time

import lightning.pytorch as pl
import pytest

from lit_sdpo.callbacks.initial_evaluation import InitialEvaluation
from lit_sdpo.callbacks.progress import StreamProgressBar
from tests.callbacks.scripted import Scripted, Stream, trainer


class Rewarded(Scripted):
    def training_step(self, batch, batch_idx):
        self.log("rollout/reward", 0.25)
        self.log("rollout/tokens_per_second", 1234.4)
        return super().training_step(batch, batch_idx)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(tmp_path, bar, module=None, data=None, **options):
    settings = {"enable_progress_bar": True, "accumulate_grad_batches": 2} | options
    trainer(tmp_path, bar, InitialEvaluation(), **settings).fit(module or Rewarded(), data or Stream(batches=6))


def test_a_log_gets_a_line_per_stage(tmp_path, capsys):
    fit(tmp_path, StreamProgressBar(seconds_between_lines=1000))
    assert capsys.readouterr().out.splitlines() == [
        "stage 1/3 math  step 3/3  reward 0.25  accuracy 0.10  tokens/s 1234",
        "stage 2/3 law  step 3/3  reward 0.25  accuracy 0.30  tokens/s 1234",
        "stage 3/3 math  step 3/3  reward 0.25  accuracy 0.50  tokens/s 1234",
    ]


def test_a_log_may_get_a_line_per_step_but_never_per_slot(tmp_path, capsys):
    fit(tmp_path, StreamProgressBar(seconds_between_lines=0), max_epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"step (\d)/3", line)[1] for line in lines] == ["1", "2", "3"]


def test_a_window_that_is_cut_short_is_a_step(tmp_path, capsys):
    fit(tmp_path, StreamProgressBar(seconds_between_lines=0), max_epochs=1, data=Stream(batches=5))
    assert capsys.readouterr().out.splitlines()[-1].startswith("stage 1/1 math  step 3/3  ")


def test_a_terminal_gets_a_bar_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    fit(tmp_path, StreamProgressBar())
    text = terminal.getvalue()
    assert "stage 2/3 law: 100%" in text
    assert "3/3 [" in text
    assert "6/6 [" not in text
    assert "reward 0.25  accuracy 0.30  tokens/s 1234" in text
    assert "Validation" in text


def test_it_serves_a_project_without_tasks_and_rewards(tmp_path, capsys):
    class Plain(pl.LightningDataModule):
        train_dataloader, val_dataloader = Stream.train_dataloader, Stream.val_dataloader
        batches = 6

    fit(tmp_path, StreamProgressBar(), module=Scripted(), data=Plain())
    assert capsys.readouterr().out.splitlines() == [f"stage {k}/3  step 3/3" for k in (1, 2, 3)]


def test_what_a_module_prints_is_not_lost(tmp_path, capsys):
    class Talker(Scripted):
        def on_train_start(self):
            self.print("hello", "there", sep="-")

    fit(tmp_path, StreamProgressBar(), module=Talker(), max_epochs=1)
    assert "hello-there\n" in capsys.readouterr().out


def test_refresh_rate_zero_is_silent(tmp_path, capsys):
    fit(tmp_path, StreamProgressBar(refresh_rate=0))
    assert capsys.readouterr().out == ""


def test_validation_alone_works(tmp_path):
    bar = StreamProgressBar()
    trainer(tmp_path, bar, enable_progress_bar=True).validate(Scripted(), Stream(), verbose=False)


def test_negative_seconds_are_refused():
    with pytest.raises(ValueError, match="seconds_between_lines"):
        StreamProgressBar(seconds_between_lines=-1)


def test_long_evaluations_and_steps_are_told_in_a_log(tmp_path, capsys):
    class Slow(Rewarded):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            time.sleep(0.3)

        def training_step(self, batch, batch_idx):
            time.sleep(0.3)
            return super().training_step(batch, batch_idx)

    bar = StreamProgressBar(seconds_between_lines=0.1)
    fit(tmp_path, bar, module=Slow(), max_epochs=1, accumulate_grad_batches=6)
    said = capsys.readouterr().out
    assert "validation  batch 1/" in said
    assert "stage 1/1 math  step 1/1 goes on  (" in said
    trainer(tmp_path, bar, enable_progress_bar=True).validate(Slow(), Stream(), verbose=False)
    assert "validation  batch 1/" in capsys.readouterr().out
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
