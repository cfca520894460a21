from __future__ import annotations

import html
import json
import math
from types import SimpleNamespace

import lightning.pytorch as pl
import markdown
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_sdpo.callbacks.samples import SampleLogger, samples_table
from lit_sdpo.data.task import Row
from lit_sdpo.modules import SRPO
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.types import Completions, Rollouts
from lit_sdpo.text import escape
from tests.loggers import InFolder
from tests.training import Toy, fit, method, rollout_callback, sgd, toy_data

NASTY = [
    "<script>alert(1)</script>",
    "a | b | c",
    "`code` ``` **bold** [link](javascript:alert(1)) ![x](http://x/y.png)",
    "# title\n\n- list\n\n| t | u |\n| - | - |",
    "&lt;b&gt; &amp; \\| \\",
    "  \t leading, \u202e turned \u200b hidden \x00\x1b[31m",
    "数学 é 😀 <br>",
]


def rollouts(texts=("yes", "no", "four", "five"), rewards=(1.0, 0.0, math.nan, 0.5), generations=2, **options):
    rows = [
        Row(f"id{i}", [{"role": "user", "content": f"question {i}"}], "x") for i in range(len(texts) // generations)
    ]
    n = len(texts)
    ids = torch.zeros(n, 3, dtype=torch.long)
    completions = Completions(ids, torch.arange(1, n + 1), torch.zeros(n, 3), torch.arange(n) % 2 == 0)
    verdicts = [Verdict(1.0, flags=("no_answer",) if i == 1 else ()) for i in range(n)]
    return Rollouts(
        rows,
        [[0]] * len(rows),
        generations,
        completions,
        list(texts),
        verdicts,
        torch.tensor(rewards),
        torch.arange(n),
        **options,
    )


class Run(SimpleNamespace):
    """What the callback asks of a trainer; a set can hold it."""

    __hash__ = object.__hash__


def ready(tmp_path, step=0, logger=False, sanity_checking=False, callback=None, zero=True, ckpt_path=None):
    """A logger and as much of a trainer as it looks at."""
    trainer = Run(
        logger=InFolder(tmp_path),
        loggers=[logger] if logger else [],
        callbacks=[],
        strategy=SimpleNamespace(broadcast=lambda value: value),
        default_root_dir=str(tmp_path),
        fast_dev_run=False,
        is_global_zero=zero,
        global_step=step,
        sanity_checking=sanity_checking,
        ckpt_path=ckpt_path,
    )
    callback = callback or SampleLogger(every_n_steps=2)
    callback.setup(trainer, None, "fit")
    callback.on_train_start(trainer, None)
    return callback, trainer


def lines(tmp_path):
    path = tmp_path / "samples.jsonl"
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def see(callback, trainer, split="train", batch=None, task="math"):
    callback.on_rollouts(trainer, None, batch or rollouts(), task=task, split=split, stage=1, step=99)


def test_a_line_has_everything(tmp_path):
    callback, trainer = ready(tmp_path, step=4)
    see(callback, trainer, batch=rollouts(advantages=torch.tensor([1.25, -2.0, 0.0, 0.0])))
    written = lines(tmp_path)
    assert written[1] == {
        "id": "id0",
        "task": "math",
        "stage": 1,
        "step": 4,
        "split": "train",
        "prompt": [{"role": "user", "content": "question 0"}],
        "completion": "no",
        "reward": 0.0,
        "advantage": -2.0,
        "score": 1.0,
        "finished": False,
        "length": 2,
        "flags": ["no_answer"],
    }
    assert [line["id"] for line in written] == ["id0", "id0", "id1", "id1"]
    assert written[2]["reward"] is written[2]["advantage"] is None
    assert written[3]["advantage"] == 0.0


class Windows(pl.Callback):
    """The advantages by which the policy gradient weighed each row's tokens, and the rows that it counted."""

    def __init__(self):
        self.used, self.counted = [], []

    def setup(self, trainer, pl_module, stage):
        prepare = pl_module.prepare_rollouts

        def keep(rollouts):
            window = prepare(rollouts)
            part = window.parts["policy_gradient"]
            self.used.append(part.values["advantages"].tolist())
            self.counted.append(part.active.any(1).tolist())
            return window

        pl_module.prepare_rollouts = keep


def scored(pattern):
    calls = iter(range(10**9))
    return Toy(score=lambda text: pattern[next(calls) % len(pattern)])


#: Groups of four: uneven, flat, one abstention.
SCORES = [1.0, 0.0, 0.25, 0.0, *[1.0] * 4, 1.0, None, 0.0, 0.0]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("kind", ["none", "std", "loo", "batch_std"])
def test_advantages_are_those_of_the_loss(tmp_path, tiny, kind, drop):
    windows = Windows()
    module = method("grpo", tiny, advantage=kind, drop_flat_groups=drop)
    fit(tmp_path, module, toy_data([scored(SCORES)]), windows, SampleLogger())
    written = [line["advantage"] for line in lines(tmp_path)]
    used = [None if score is None else a for score, a in zip(SCORES, windows.used[0], strict=True)]
    assert written == used
    assert written[4:8] == [0.0] * 4
    assert windows.counted[0] == [s is not None and not (drop and 4 <= n < 8) for n, s in enumerate(SCORES)]
    first = torch.tensor(SCORES[:4]) - 0.3125
    known = torch.tensor([score for score in SCORES if score is not None])
    by_hand = {
        "none": first,
        "std": first / (first.std() + 1e-6),
        "loo": first * 4 / 3,
        "batch_std": first / (known.std() + 1e-6),
    }
    assert written[:4] == pytest.approx(by_hand[kind].tolist(), rel=1e-5)


def test_advantages_of_a_window_with_replayed_and_replaced_groups(tmp_path, tiny):
    windows = Windows()
    module = method("grpo", tiny, advantage="std", replay_coefficient=0.5)
    data = toy_data(["a", "b"], prompts=4, replay_share=0.5)
    fit(tmp_path, module, data, windows, SampleLogger(1), rollout=rollout_callback(resample_rounds=2))
    written = [line["advantage"] for line in lines(tmp_path)]
    assert [len(used) for used in windows.used] == [16, 24]
    assert written == [*windows.used[0], *windows.used[1][:16]]
    assert any(written)


def test_advantages_where_rows_are_distilled_instead(tmp_path, tiny):
    windows, pattern = Windows(), [1.0, 0.0, 0.0, 1.0]
    module = SRPO(tiny, optimizer=sgd, scheduler=None, reprompt=Reprompt(allow_truncated=True))
    fit(tmp_path, module, toy_data([scored(pattern)]), windows, SampleLogger())
    assert [line["advantage"] for line in lines(tmp_path)] == [0.5, None, None, 0.5] * 3
    assert windows.counted[0] == [True, False, False, True] * 3


@pytest.mark.parametrize(("coefficient", "known"), [(0.0, False), (0.5, True)])
def test_advantages_of_self_distillation(tmp_path, tiny, coefficient, known):
    data = toy_data([scored([1.0, 0.0, 0.0, 1.0])])
    fit(tmp_path, method("sdpo", tiny, outcome_coefficient=coefficient), data, SampleLogger(), limit_val_batches=1.0)
    written = lines(tmp_path)
    of = {split: {line["advantage"] for line in written if line["split"] == split} for split in ("train", "validation")}
    assert of["train"] == ({0.5, -0.5} if known else {None})
    assert of["validation"] == {None}


def test_tokens_and_the_teachers_context_on_request(tmp_path):
    callback, trainer = ready(tmp_path, callback=SampleLogger(token_ids=True))
    batch = rollouts()
    batch.completions.ids = torch.arange(12).view(4, 3)
    batch.completions.lengths = torch.tensor([1, 2, 3, 0])
    batch.taught = [True, False, True, True]
    see(callback, trainer, batch=batch)
    assert [line["ids"] for line in lines(tmp_path)] == [[0], [3, 4], [6, 7, 8], []]
    assert [line["teacher_context"] for line in lines(tmp_path)] == batch.taught


@pytest.mark.parametrize(("kind", "taught"), [("sdpo", True), ("grpo", False)])
def test_a_run_says_which_completions_were_taught(tmp_path, tiny, kind, taught):
    fit(tmp_path, method(kind, tiny), toy_data([scored([1.0, 0.0, 0.0, 1.0])]), SampleLogger())
    assert all(("teacher_context" in line) == taught for line in lines(tmp_path))
    assert {line.get("teacher_context") for line in lines(tmp_path)} == ({True} if taught else {None})


def test_training_is_kept_every_n_steps_and_evaluation_always(tmp_path):
    callback, trainer = ready(tmp_path)
    for trainer.global_step in range(5):
        see(callback, trainer)
        see(callback, trainer, split="validation")
    kept = {(line["split"], line["step"]) for line in lines(tmp_path)}
    assert kept == {("train", s) for s in (0, 2, 4)} | {("validation", s) for s in range(5)}


@pytest.mark.parametrize("options", [{"sanity_checking": True}, {"zero": False}])
def test_neither_the_sanity_check_nor_other_ranks_write(tmp_path, options):
    callback, trainer = ready(tmp_path, **options)
    see(callback, trainer)
    assert not list(tmp_path.iterdir())


def test_unjudged_references_have_no_flags(tmp_path):
    callback, trainer = ready(tmp_path)
    batch = rollouts()
    batch.verdicts = []
    see(callback, trainer, batch=batch)
    assert [line["flags"] for line in lines(tmp_path)] == [[]] * 4


def test_g15_any_text_survives_the_file(tmp_path):
    texts = [*NASTY, "\ud800 lone, \u2028 line"]
    callback, trainer = ready(tmp_path)
    see(callback, trainer, batch=rollouts(texts, [0.0] * len(texts)))
    assert [line["completion"] for line in lines(tmp_path)] == texts


@pytest.mark.parametrize("moved", [False, True])
def test_resume_cuts_the_file_back_to_the_checkpoint(tmp_path, moved):
    folder = tmp_path / "run"
    callback, trainer = ready(folder)
    see(callback, trainer)
    saved = callback.state_dict()
    before = lines(folder)
    trainer.global_step = 2
    see(callback, trainer)
    if moved:
        folder = folder.rename(tmp_path / "elsewhere")
    again = SampleLogger(every_n_steps=2)
    again.load_state_dict(saved)
    ready(folder, callback=again, ckpt_path=str(folder / "checkpoints" / "step=1.ckpt"))
    assert lines(folder) == before
    see(again, trainer)
    assert [line["step"] for line in lines(folder)] == [0] * 4 + [2] * 4


def test_resume_elsewhere_touches_nothing(tmp_path):
    callback, trainer = ready(tmp_path / "a")
    saved = callback.state_dict()
    see(callback, trainer)
    other, trainer = ready(tmp_path / "b")
    see(other, trainer)
    again = SampleLogger()
    again.load_state_dict(saved)
    ready(tmp_path / "b", callback=again, ckpt_path=str(tmp_path / "a" / "checkpoints" / "step=1.ckpt"))
    assert len(lines(tmp_path / "b")) == len(lines(tmp_path / "a")) == 4


def test_tensorboard_shows_a_few_once_per_evaluation(tmp_path):
    logger = TensorBoardLogger(tmp_path, "", "")
    callback, trainer = ready(tmp_path, step=6, logger=logger, callback=SampleLogger(num_shown=3))
    see(callback, trainer, split="validation")
    see(callback, trainer, split="validation")
    see(callback, trainer, split="validation", task="law")
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    assert set(events.Tags()["tensors"]) == {"samples/math/text_summary", "samples/law/text_summary"}
    (event,) = events.Tensors("samples/math/text_summary")
    assert event.step == 6
    text = event.tensor_proto.string_val[0].decode()
    assert text.count("\n| question") == 2  # a completion of each prompt
    assert text.endswith("\n\nSplit: validation.")
    assert "abstained" in text
    assert "question 0 | reward 1.000, 1 token · yes" in text
    assert "tokens · four" in text


def test_later_evaluations_show_what_was_written_at_first(tmp_path):
    logger = TensorBoardLogger(tmp_path, "", "")
    callback, trainer = ready(tmp_path, logger=logger)
    see(callback, trainer, split="validation")
    again = SampleLogger()
    again.load_state_dict(callback.state_dict())
    ready(tmp_path, step=3, callback=again)
    trainer.global_step = 3
    see(again, trainer, split="validation", batch=rollouts(texts=("new", "b", "newer", "d")))
    logger.experiment.flush()
    last = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload().Tensors("samples/math/text_summary")[-1]
    text = last.tensor_proto.string_val[0].decode()
    assert "| prompt | at first | completion |" in text
    assert "| question 0 | yes | reward 1.000, 1 token · new |" in text
    assert "| question 1 | four | reward abstained, 3 tokens · newer |" in text


@pytest.mark.parametrize("text", NASTY)
def test_g15_no_text_can_act_as_markdown_or_html(text):
    record = {"prompt": [{"role": "user", "content": text}], "completion": text, "reward": 0.5}
    table = samples_table([{**record, "task": "a|b", "split": "train", "finished": True, "length": 3}]).markdown()
    assert len(table.splitlines()) == 5
    # What TensorBoard renders with, here without the sanitizer behind it.
    page = markdown.markdown(table, extensions=["markdown.extensions.tables"])
    tags = {piece.split(">")[0].strip("/ ").split(" ")[0] for piece in page.split("<")[1:]}
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert page.count("<td") == 2


@pytest.mark.parametrize("text", NASTY)
def test_escaping_keeps_what_can_be_seen(text):
    shown = html.unescape(escape(text))
    kept = [c for c in text if c.isprintable()]
    rest = iter(shown)
    assert all(c in rest for c in kept)
    assert shown.count("⏎") == text.count("\n")
    assert all(c.isprintable() for c in shown)


def test_long_texts_lose_their_middle():
    record = {"prompt": [], "completion": "a" * 500 + "b" * 500, "reward": 0.0, "task": "t", "split": "train"}
    table = samples_table([{**record, "finished": True, "length": 1}], max_characters=30).markdown()
    assert " · " + "a" * 20 + " … 970 characters left out … " + "b" * 10 in table


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"num_shown": -1}, {"max_characters": 3}])
def test_bad_numbers_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SampleLogger(**options)


def test_fast_dev_run_writes_nothing(tmp_path):
    trainer = pl.Trainer(default_root_dir=tmp_path, fast_dev_run=True, accelerator="cpu")
    callback = SampleLogger()
    callback.setup(trainer, None, "fit")
    see(callback, trainer)
    assert not list(tmp_path.iterdir())
