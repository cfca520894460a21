from __future__ import annotations

import pytest
import torch

from lit_sdpo.callbacks.responses import collapse
from lit_sdpo.callbacks.responses.collapse import CollapseMonitor, repeated_share
from lit_sdpo.errors import UserError
from lit_sdpo.functional.text import repetition_share
from lit_sdpo.policies.teachers import EMATeacher, FrozenTeacher
from lit_sdpo.report.health import Health
from lit_sdpo.rollouts.types import Completions
from tests.training import assert_equal, fit, lively, method, rollout_callback, toy_data, weights


class Alarm(CollapseMonitor):
    """Collapses at a given step, whatever is logged."""

    def __init__(self, *actions, at=2):
        super().__init__(actions)
        self.at, self.logged = at, []

    def on_train_batch_end(self, trainer, *rest):
        sick = trainer.global_step == self.at
        self.watch.see = lambda values: (
            self.logged.append(values) or (Health("collapsing", ("it is made up",), 3) if sick else Health())
        )
        super().on_train_batch_end(trainer, *rest)


def run(tmp_path, model, *callbacks, teacher=None, steps=4, kind="sdpo", **options):
    module = method(kind, model, **({"teacher": teacher or EMATeacher(0.1)} if kind == "sdpo" else {}))
    trainer = fit(
        tmp_path, module, toy_data(steps=steps), *callbacks, rollout=rollout_callback(rewards=lively()), **options
    )
    return module, trainer


def test_repetition_is_that_of_every_completion():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 3, (20, 15), generator=generator)
    lengths = torch.randint(0, 16, (20,), generator=generator)
    expected = [repetition_share(row[:n], 4) for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
    made = Completions(ids, lengths, torch.zeros(20, 15), torch.ones(20, dtype=torch.bool))
    torch.testing.assert_close(repeated_share(made, 4), torch.tensor(expected))
    assert max(expected) > 0.2
    assert repeated_share(made, 16).tolist() == [0.0] * 20


def test_it_sees_what_is_logged_once_per_step(tmp_path, tiny):
    monitor = Alarm(at=-1)
    run(tmp_path, tiny, monitor, accumulate_grad_batches=2)
    assert len(monitor.logged) == 4
    expected = {"reward", "entropy", "divergence", "length", "truncated", "flat_groups"}
    assert set(monitor.logged[0]) == expected | {"length_tail", "repetition", "invalid"}
    assert monitor.logged[0]["length_tail"] >= 1
    assert monitor.logged[0] != monitor.logged[1]


def test_watching_changes_nothing(tmp_path, tiny):
    plain, _ = run(tmp_path, tiny)
    watched, _ = run(tmp_path, tiny, CollapseMonitor(actions=collapse.ACTIONS))
    assert_equal(weights(plain), weights(watched))


def test_a_warning_says_why(tmp_path, tiny):
    monitor = Alarm("warn")
    with pytest.warns(UserWarning, match="collapsing at step 2 of stage 0: it is made up"):
        run(tmp_path, tiny, monitor)
    assert monitor.alarms == [{"step": 2, "stage": 0, "reasons": ["it is made up"]}]


def test_stop_ends_at_a_whole_step_and_says_why(tmp_path, tiny, capsys):
    _, trainer = run(tmp_path, tiny, Alarm("stop"), accumulate_grad_batches=2)
    assert trainer.global_step == 2
    assert "training was stopped: the run is collapsing at step 2 of stage 0: it is made up" in capsys.readouterr().out


@pytest.mark.parametrize("at", [2, 4])
def test_a_saved_run_goes_on_exactly(tmp_path, tiny, at):
    monitor = Alarm("save", at=at)
    whole, _ = run(tmp_path / "whole", tiny, monitor)
    path = tmp_path / "whole" / "checkpoints" / f"collapse-step={at}.ckpt"
    again = Alarm(at=-1)
    resumed, trainer = run(tmp_path / "resumed", tiny, again, ckpt_path=path)
    assert trainer.global_step == 4
    assert again.alarms == monitor.alarms
    assert_equal(weights(whole), weights(resumed))


def test_a_restarted_teacher_is_the_student(tmp_path, tiny):
    module, _ = run(tmp_path, tiny, Alarm("restart_teacher", at=4))
    assert module.teacher.distance(module.policy) == 0
    assert module.teacher.refreshes == 1


def test_a_frozen_teacher_stays_also_after_a_resume(tmp_path, tiny):
    early, _ = run(tmp_path / "early", tiny, steps=2)
    monitor = Alarm("freeze_teacher", "save")
    frozen, _ = run(tmp_path / "frozen", tiny, monitor)
    path = tmp_path / "frozen" / "checkpoints" / "collapse-step=2.ckpt"
    resumed, _ = run(tmp_path / "resumed", tiny, Alarm("freeze_teacher", at=-1), ckpt_path=path)
    following, _ = run(tmp_path / "following", tiny)
    of = lambda module: dict(module.teacher.named_parameters()) | dict(module.teacher.weights.named_buffers())  # noqa: E731
    assert_equal(of(early), of(frozen))
    assert_equal(of(early), of(resumed))
    assert any(not torch.equal(a, b) for a, b in zip(of(early).values(), of(following).values(), strict=True))


@pytest.mark.parametrize(
    ("action", "kind", "teacher"),
    [
        ("restart_teacher", "grpo", None),
        ("freeze_teacher", "grpo", None),
        ("freeze_teacher", "sdpo", FrozenTeacher()),
    ],
)
def test_an_action_that_can_do_nothing_is_refused(tmp_path, tiny, action, kind, teacher):
    with pytest.raises(UserError, match=action):
        run(tmp_path, tiny, CollapseMonitor([action]), kind=kind, teacher=teacher)


@pytest.mark.parametrize(("options", "name"), [({"actions": ["pray"]}, "pray"), ({"metrics": {"mood": "x"}}, "mood")])
def test_unknown_names_are_refused(options, name):
    with pytest.raises(ValueError, match=name):
        CollapseMonitor(**options)


def test_reference_answers_are_not_looked_at(tmp_path, tiny):
    monitor = Alarm(at=-1)
    module = method("sft", tiny)
    fit(tmp_path, module, toy_data(steps=2), monitor)
    assert monitor.logged == [{}, {}]
