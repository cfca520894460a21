from __future__ import annotations

import json
import random

import pytest
from torch.utils.tensorboard import SummaryWriter

from lit_sdpo.report.health import METRICS, Watch
from lit_sdpo.report.replay import main, replay


def line(steps, noise=0.0, seed=0, **ends):
    """A table in which every signal goes straight from its first to its last value."""
    numbers = random.Random(seed)
    share = [i / max(steps - 1, 1) for i in range(steps)]
    return [{k: (a + (b - a) * s) * (1 + numbers.gauss(0, noise)) for k, (a, b) in ends.items()} for s in share]


def states(table, **options):
    watch = Watch(**options)
    return [watch.see(values).state for values in table]


LEARNS = {"reward": (0.6, 0.95), "entropy": (0.15, 0.05), "divergence": (0.01, 0.004), "length": (20, 21)}
LEARNED = line(40, noise=0.03, **LEARNS)


@pytest.mark.parametrize("seed", range(5))
def test_learning_is_healthy(seed):
    assert set(states(line(80, noise=0.05, seed=seed, **LEARNS))) == {"healthy"}


def test_shorter_answers_and_a_converged_run_are_healthy():
    shorter = line(60, length=(11_000, 4_500), reward=(0.4, 0.6), entropy=(0.3, 0.2), divergence=(0.009, 0.0076))
    converged = line(60, reward=(1, 1), entropy=(0.05, 0.0), divergence=(0.004, 0.0), flat_groups=(0.5, 1))
    assert set(states(shorter) + states(converged)) == {"healthy"}


@pytest.mark.parametrize(
    ("ends", "reasons"),
    [
        ({"reward": (0.95, 0.5), "entropy": (0.05, 0.1)}, ["the reward falls", "entropy rises"]),
        ({"entropy": (0.05, 0.12), "divergence": (0.004, 0.01)}, ["entropy rises", "part again"]),
        ({"reward": (0.95, 0.0), "divergence": (0.004, 0.0), "entropy": (0.05, 0.001)}, ["agree", "vanishes"]),
        ({"reward": (0.95, 0.7), "truncated": (0.0, 0.9), "length": (20, 64)}, ["cut off", "get longer"]),
        ({"repetition": (0.1, 0.95), "invalid": (0.0, 0.5)}, ["repeat themselves", "loops", "no answer"]),
        ({"leakage": (0.0, 0.6), "length_tail": (1.5, 5.0)}, ["another task's format", "longest completions"]),
    ],
)
def test_a_collapse_is_seen_and_explained(ends, reasons):
    still = {k: v for k, v in LEARNED[-1].items() if k not in ends}
    before = [{**values, **{k: a for k, (a, _) in ends.items() if k not in values}} for values in LEARNED]
    after = [{**still, **values} for values in line(40, **ends)]
    watch = Watch()
    seen = [watch.see(values) for values in before + after]
    assert {health.state for health in seen[:40]} == {"healthy"}
    assert seen[-1].state == "collapsing"
    assert all(word in str(seen[-1]) for word in reasons)


def test_one_signal_alone_is_only_suspicious():
    table = LEARNED + [{**LEARNED[-1], "entropy": 10.0}] * 30
    assert states(table)[-1] == "suspicious"


def test_single_values_raise_nothing():
    flat = [LEARNED[-1]] * 60
    spiked = [{"reward": 0.0, "entropy": 9.0} if i % 10 == 5 else v for i, v in enumerate(flat)]
    assert set(states(spiked)) == {"healthy"}


def test_agreement_alone_is_neither_good_nor_bad_but_at_a_low_reward_it_counts():
    agree = {"divergence": (0.006, 0.0)}
    assert set(states(line(40, reward=(0.9, 0.9), **agree))) == {"healthy"}
    # A third stage that is lost within its first eight steps.
    lost = line(8, reward=(0.3, 0.0), **agree) + [{"reward": 0.0, "divergence": 0.0, "flat_groups": 1.0}] * 12
    assert states(lost)[-1] == "collapsing"


def test_near_zero_everything_is_noise():
    hard = [{"reward": 0.02 * (i % 3), "entropy": 0.1} for i in range(60)]
    assert set(states(hard)) == {"healthy"}
    watch = Watch()
    for values in line(20, entropy=(0.15, 0.004)):
        watch.see(values)
    watch.start_stage()
    assert {watch.see(values).state for values in line(40, entropy=(0.004, 0.01))} == {"healthy"}


def test_a_stage_has_baselines_of_its_own():
    watch = Watch(window=3)
    for _ in range(5):
        watch.see({"reward": 0.95, "entropy": 0.05})
    watch.start_stage()
    assert {watch.see({"reward": 0.4, "entropy": 0.15}).state for _ in range(9)} == {"healthy"}


def test_it_goes_on_from_its_state():
    table = LEARNED + line(30, noise=0.05, reward=(0.95, 0.4), entropy=(0.05, 0.1))
    whole, first, second = Watch(), Watch(), Watch()
    expected = [whole.see(values) for values in table]
    for values in table[:50]:
        first.see(values)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.see(values) for values in table[50:]] == expected[50:]


def test_values_that_are_not_numbers_are_passed_over():
    assert states([{"reward": float("nan"), "entropy": float("inf")}] * 20) == ["healthy"] * 20


def test_a_recorded_run_is_judged_like_a_running_one(tmp_path, capsys):
    stage = LEARNED + line(30, reward=(0.95, 0.4), entropy=(0.05, 0.1))
    with SummaryWriter(tmp_path) as writer:
        for step, values in enumerate(LEARNED + stage):
            writer.add_scalar("epoch", int(step >= 40), step)
            for signal, value in values.items():
                writer.add_scalar(METRICS[signal], value, step)
    judged = replay(tmp_path)
    assert [(step, number) for step, number, _ in judged] == [(step, int(step >= 40)) for step in range(110)]
    assert [health.state for *_, health in judged[40:]] == states(stage)
    main([str(tmp_path)])
    assert "stage 1, step 1" in capsys.readouterr().out


def test_a_window_needs_a_step():
    with pytest.raises(ValueError, match="window"):
        Watch(window=0)
