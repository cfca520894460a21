"""The verifier's own score decides what is a success; further rewards never do, in any method."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from lit_sdpo.modules import GRPO, SCSDPO, SDPG, SDPO, SRPO, DemoPSD, GeoSD
from lit_sdpo.policies.attention import say_once
from lit_sdpo.policies.teachers import GatedTeacher
from lit_sdpo.rewards.combine import WeightedRewards
from tests.modules.test_variants import GENERATIONS, Run, make
from tests.training import Toy, assert_close_gradients, assert_equal, rollout_callback, toy_data


def bonus_for_wrong(prompts, completions, scores, **columns):
    """What a wrong or unjudged completion gets for something else."""
    return [0.0 if score == 1 else 1.5 for score in scores]


def brevity(prompts, completions, completion_ids, **columns):
    return [-0.01 * len(ids) for ids in completion_ids]


def failing(prompts, completions, **columns):
    return [None] * len(completions)


#: Further rewards, of which the last leaves a completion without any weighted reward.
FURTHER = {
    "alone": lambda: None,
    "bonus": lambda: WeightedRewards({"bonus": bonus_for_wrong}),
    "brevity": lambda: WeightedRewards({"brevity": brevity}),
    "light": lambda: WeightedRewards({"brevity": brevity}, {"verifier": 0.3}),
    "no weight": lambda: WeightedRewards({"failing": failing}, {"verifier": 0.0}),
}


def judged(pattern=(1, 0, None, 1, 0, 0, 1, 0)):
    """Right, wrong or abstained, in the order in which completions are judged."""
    calls = iter(range(10**9))
    return Toy(score=lambda text: pattern[next(calls) % len(pattern)])


def run(tmp_path, kind, tiny, further, data=None, **options):
    rollout = rollout_callback(rewards=FURTHER[further]())
    return Run(tmp_path, make(kind, tiny, **options), data or toy_data([judged()]), rollout=rollout)


@pytest.mark.parametrize("kind", [SDPO, SCSDPO, DemoPSD, GeoSD])
def test_what_only_distils_does_not_depend_on_further_rewards(tmp_path, tiny, kind):
    alone = run(tmp_path, kind, tiny, "alone")
    assert any(alone.windows[0].teacher_prompt_ids)
    for name in ("bonus", "brevity", "light", "no weight"):
        other = run(tmp_path, kind, tiny, name)
        assert not torch.equal(other.rollouts().rewards, alone.rollouts().rewards)
        assert other.windows[0].teacher_prompt_ids == alone.windows[0].teacher_prompt_ids, name
        assert_equal(other.steps.gradient(0), alone.steps.gradient(0))


@pytest.mark.parametrize("further", ["bonus", "brevity"])
@pytest.mark.parametrize("kind", [SRPO, SDPG])
def test_teachers_read_and_teach_the_same_beside_an_outcome_term(tmp_path, tiny, kind, further):
    alone, other = (run(tmp_path, kind, tiny, name) for name in ("alone", further))
    assert other.windows[0].teacher_prompt_ids == alone.windows[0].teacher_prompt_ids
    texts, scores = other.rollouts().texts, other.rollouts().scores.tolist()
    tokenizer = other.module.tokenizer
    for n, prompt in enumerate(other.windows[0].teacher_prompt_ids):
        group = range(n // GENERATIONS * GENERATIONS, (n // GENERATIONS + 1) * GENERATIONS)
        right = [texts[m] for m in group if scores[m] == 1 and m != n]
        assert prompt is None or any(text in tokenizer.decode(prompt) for text in right)
    if kind is SRPO:
        distilled = [part.parts["distillation"].contributes for part in (alone.windows[0], other.windows[0])]
        assert torch.equal(*distilled)
        assert bool((alone.rollouts().scores[distilled[0]] == 0).all())
        assert int(distilled[0].sum()) > 0


@pytest.mark.parametrize("further", ["alone", "bonus", "brevity"])
def test_only_verified_completions_are_replayed(tmp_path, tiny, further):
    data = toy_data(["a", "b"], prompts=4, replay_share=0.5)
    found = run(tmp_path, GRPO, tiny, further, data, replay_coefficient=0.4)
    rollouts, part = found.rollouts(1), found.windows[1].parts["replay"]
    verified = rollouts.scores == 1
    assert torch.equal(part.contributes, rollouts.replayed & verified)
    assert 0 < int(part.contributes.sum()) < int(rollouts.replayed.sum())


@pytest.mark.parametrize("further", ["alone", "bonus", "brevity", "no weight"])
def test_a_gate_opens_by_the_verifiers_score(tmp_path, tiny, further):
    found = run(tmp_path, SDPO, tiny, further, teacher=GatedTeacher(window=1))
    scores = found.rollouts().scores
    assert float(found.module.teacher.rewards[-1]) == pytest.approx(float(scores.nanmean()))


def test_a_gate_keeps_nothing_of_rollouts_that_nobody_judged(tmp_path, tiny, caplog):
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = run(tmp_path, SDPO, tiny, "brevity", toy_data([judged([None])]), teacher=GatedTeacher(window=1))
    assert math.isnan(float(found.module.teacher.rewards[-1]))
    assert not any(found.windows[0].teacher_prompt_ids)
    assert not found.rollouts().rewards.isnan().any()
    assert "further rewards make no success" in caplog.text


def test_a_graded_score_succeeds_from_the_threshold_on(tmp_path, tiny):
    from lit_sdpo.rollouts.reprompt import Reprompt

    reprompt = Reprompt(success_threshold=0.5, allow_truncated=True)
    pattern = (0.6, 0.2, 0.5, 0.4)
    found = run(tmp_path, SRPO, tiny, "bonus", toy_data([judged(pattern)]), reprompt=reprompt)
    distilled = found.windows[0].parts["distillation"].contributes.view(-1, GENERATIONS)
    assert distilled.tolist() == [[False, True, False, True]] * len(distilled)


def test_a_reward_still_decides_the_advantage(tmp_path, tiny):
    alone, bonus = (run(tmp_path, GRPO, tiny, name) for name in ("alone", "bonus"))
    with pytest.raises(AssertionError):
        assert_close_gradients(bonus.steps.gradient(0), alone.steps.gradient(0))
