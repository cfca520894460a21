from __future__ import annotations

import pytest
import torch

from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import load_policy
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.teachers import (
    EMATeacher,
    FrozenTeacher,
    GatedTeacher,
    RestartTeacher,
    Teacher,
    TrustRegionTeacher,
)

NAME = "model.norm.weight"
PROMPTS = [[5, 6, 7], [8]]
ROWS = Sequences(PROMPTS, torch.tensor([[9, 10], [11, 0]]), torch.tensor([[True, True], [True, False]]))


@pytest.fixture
def policy(tiny):
    return load_policy(tiny)


def attached(teacher, policy):
    teacher.attach(policy)
    return teacher


def move(policy, by=1.0):
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by)


def place(teacher, policy):
    """How far the teacher has come from the start, where the student has moved by whole numbers."""
    return float((dict(teacher.weights.model.named_parameters())[NAME].float() - START).mean())


START = 1.0  # a fresh norm's weight


def steps(teacher, policy, count, by=1.0):
    """The teacher's place after each of some optimizer steps of size ``by``."""
    found = []
    for _ in range(count):
        move(policy, by)
        teacher.after_optimizer_step(policy)
        found.append(place(teacher, policy))
    return found


def test_the_fixture_starts_where_it_says(policy):
    assert bool((policy.model.norm.weight == START).all())


def test_a_frozen_teacher_stays(policy):
    teacher = attached(FrozenTeacher(), policy)
    assert steps(teacher, policy, 3) == [0, 0, 0]
    teacher.start_stage(policy)
    assert place(teacher, policy) == 3


def test_an_average(policy):
    teacher = attached(EMATeacher(0.25), policy)
    expected, value = [], 0.0
    for student in range(1, 5):
        value += 0.25 * (student - value)
        expected.append(value)
    assert steps(teacher, policy, 4) == pytest.approx(expected)
    assert int(teacher.ticks) == 4


@pytest.mark.parametrize("mix", [1.0, 0.4])
def test_a_restart_is_a_copy_every_so_often(policy, mix):
    teacher = attached(RestartTeacher(every=3, mix=mix), policy)
    first = 3 * mix
    second = first + mix * (6 - first)
    assert steps(teacher, policy, 7) == pytest.approx([0, 0, first, first, first, second, second])
    assert int(teacher.refreshes) == 2


@pytest.mark.parametrize(("at_stage", "places"), [("reset_to_student", [2, 2, 5]), ("keep", [3, 3, 3])])
def test_a_stage_starts_the_count_anew(policy, at_stage, places):
    teacher = attached(RestartTeacher(every=3, at_stage=at_stage), policy)
    steps(teacher, policy, 2)
    teacher.start_stage(policy)
    assert steps(teacher, policy, 3) == places


@pytest.mark.parametrize("at_stage", ["keep", "reset_to_student", "reset_to_base"])
def test_c06_stage_starts(policy, at_stage):
    teacher = attached(EMATeacher(0.5, at_stage=at_stage), policy)
    steps(teacher, policy, 1)
    move(policy)
    teacher.start_stage(policy)
    assert place(teacher, policy) == {"keep": 0.5, "reset_to_student": 2, "reset_to_base": 0}[at_stage]


def test_a_rollout_clock_ticks_before_new_rollouts_only(policy):
    teacher = attached(EMATeacher(1.0, clock="rollout"), policy)
    teacher.before_rollout(policy)
    assert int(teacher.ticks) == 0
    assert steps(teacher, policy, 2) == [0, 0]
    teacher.before_rollout(policy)
    assert (place(teacher, policy), int(teacher.ticks)) == (2, 1)
    teacher.before_rollout(policy)
    assert int(teacher.ticks) == 1


def gated(policy, rewards, tails=None, **options):
    settings = {"check_every": 1, "min_age": 1, "window": 2, "reward_gain": 0.1}
    teacher = attached(GatedTeacher(**(settings | options)), policy)
    found = []
    for n, reward in enumerate(rewards):
        teacher.observe(reward, tails[n] if tails else 1.0)
        found += steps(teacher, policy, 1)
    return found


def test_a_gated_teacher_waits_for_higher_rewards(policy):
    """The mean of two: 0.2 is the reference, 0.25 too little, 0.4 enough and the next reference."""
    assert gated(policy, [0.2, 0.2, 0.3, 0.5, 0.5, 0.6]) == [0, 0, 0, 4, 4, 6]


def test_a_gated_teacher_skips_what_nobody_judged(policy):
    assert gated(policy, [0.2, float("nan"), 0.2, 0.3, float("nan"), 0.5]) == [0, 0, 0, 0, 0, 6]


def test_a_gated_teacher_waits_for_its_age(policy):
    assert gated(policy, [0.0, 0.0, 1.0, 1.0, 1.0], min_age=5) == [0, 0, 0, 0, 5]


def test_a_gated_teacher_looks_only_now_and_then(policy):
    assert gated(policy, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0], check_every=3) == [0, 0, 3, 3, 3, 6]


def test_a_gated_teacher_distrusts_a_long_tail(policy):
    assert gated(policy, [0.0, 0.0, 1.0, 1.0], tails=[1.0, 1.0, 9.0, 1.0]) == [0, 0, 0, 4]


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_a_trust_region_mixes_logits(policy, mix):
    teacher = attached(TrustRegionTeacher(mix), policy)
    policy.eval()
    whole = slice(0, 3)
    reference = attached(FrozenTeacher(), policy).scorer(policy, ROWS)(whole)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.3)
    student = attached(FrozenTeacher(), policy).scorer(policy, ROWS)(whole)
    made = teacher.scorer(policy, ROWS)(whole)
    torch.testing.assert_close(made, (1 - mix) * reference + mix * student)
    assert not made.requires_grad


def test_small_steps_survive_bfloat16(tiny):
    policy = load_policy(tiny, dtype="bfloat16")
    teacher = attached(EMATeacher(0.001), policy)
    move(policy)  # once; bfloat16 holds 2 exactly
    for _ in range(100):
        teacher.after_optimizer_step(policy)
    assert dict(teacher.weights.model.named_parameters())[NAME].dtype == torch.bfloat16
    assert place(teacher, policy) == pytest.approx(1 - 0.999**100, abs=0.004)


def test_c06_weights_and_clock_are_in_the_state(policy, tiny):
    teacher = attached(RestartTeacher(every=3), policy)
    steps(teacher, policy, 5)
    other = attached(RestartTeacher(every=3), load_policy(tiny))
    other.load_state_dict(teacher.state_dict())
    assert (int(other.ticks), place(other, policy)) == (5, 3)
    assert steps(other, policy, 1) == [6]


def test_distance_is_relative(policy):
    teacher = attached(FrozenTeacher(), policy)
    assert float(teacher.distance(policy)) == 0
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    assert float(teacher.distance(policy)) == pytest.approx(0.1, rel=1e-3)


def test_a_checkpoint_is_mixed_in_at_the_start(policy, tiny, tmp_path):
    move(policy, 4.0)
    policy.save_pretrained(tmp_path / "other")
    student = load_policy(tiny)
    teacher = attached(EMATeacher(checkpoint=str(tmp_path / "other"), checkpoint_share=0.25), student)
    assert place(teacher, student) == pytest.approx(1.0)
    narrow = load_policy(tiny, random_weights=True, config_overrides={"hidden_size": 16})
    with pytest.raises(UserError, match="architecture"):
        attached(EMATeacher(checkpoint=tiny), narrow)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EMATeacher(1.5),
        lambda: RestartTeacher(every=0),
        lambda: RestartTeacher(mix=-0.1),
        lambda: TrustRegionTeacher(2.0),
        lambda: Teacher(checkpoint_share=-1.0),
    ],
)
def test_numbers_out_of_range(make):
    with pytest.raises(ValueError, match=r"^(update_rate|every|mix|checkpoint_share) has to be"):
        make()
