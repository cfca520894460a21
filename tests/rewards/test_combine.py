from __future__ import annotations

import asyncio

import pytest
import torch

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Reward, Verdict
from lit_sdpo.rewards.combine import WeightedRewards

NAN = float("nan")


def length(prompts, completions, completion_ids=None, **columns):
    return [float(len(completion)) for completion in completions]


def halves(prompts, completions, **columns):
    return [None, 0.5]


async def slow(prompts, completions, **columns):
    await asyncio.sleep(0.01)
    return [10.0, NAN]


async def slow_failure(prompts, completions, **columns):
    raise RuntimeError("later")


def failure(prompts, completions, **columns):
    raise RuntimeError("now")


def score(verdicts=(1.0, 0.0), components=None, weights=None, **columns):
    rewards = WeightedRewards(components, weights)
    return rewards([Verdict(v) for v in verdicts], ["p", "p"], ["abc", "de"], [[1], [2]], **columns)


def close(values, expected):
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32), equal_nan=True)


def test_weighted_sum():
    scores = score(components={"length": length, "slow": slow}, weights={"verifier": 2.0, "length": -0.1})
    close(scores.rewards, [2.0 - 0.3 + 10.0, -0.2])
    assert scores.rewards.dtype == torch.float32
    assert scores.means == {"verifier": 0.5, "length": 2.5, "slow": 10.0}
    assert scores.abstained == {"verifier": 0, "length": 0, "slow": 1}
    assert scores.failures == {"verifier": 0, "length": 0, "slow": 0}


def test_weight_zero_is_only_logged():
    scores = score(components={"length": length}, weights={"length": 0.0})
    close(scores.rewards, [1.0, 0.0])
    assert scores.means["length"] == 2.5
    close(score(weights={"verifier": 0.0}, components={"halves": halves}).rewards, [NAN, 0.5])


def test_r02_abstention_is_not_zero():
    close(score(verdicts=(None, 1.0)).rewards, [NAN, 1.0])
    close(score(verdicts=(None, 1.0), components={"halves": halves}).rewards, [NAN, 1.5])
    close(score(verdicts=(None, None), weights={"verifier": 0.0}).rewards, [NAN, NAN])


@pytest.mark.parametrize(
    "reward",
    [
        failure,
        slow_failure,
        lambda prompts, completions, **columns: [1.0],
        lambda prompts, completions, **columns: ["good", "bad"],
        lambda prompts, completions, **columns: [float("inf"), 1.0],
        lambda prompts, completions, **columns: None,
        lambda prompts: [1.0, 1.0],
    ],
)
def test_r01_r04_a_failure_is_counted_and_never_a_score(reward, caplog):
    scores = score(components={"bad": reward})
    close(scores.rewards, [1.0, 0.0])
    assert scores.failures["bad"] == scores.abstained["bad"] == 2
    assert "'bad' failed and abstains" in caplog.text


def test_columns_reach_the_reward():
    seen = {}

    def look(**arguments):
        seen.update(arguments)
        return [0.0, 0.0]

    score(components={"look": look}, answer=["3", "4"])
    assert seen["answer"] == ["3", "4"]
    assert seen["completion_ids"] == [[1], [2]]
    assert isinstance(look, Reward)


def test_r10_async_rewards_work_inside_a_running_loop():
    async def inside():
        return score(components={"slow": slow})

    close(asyncio.run(inside()).rewards, [11.0, 0.0])


def test_rewards_by_import_path():
    scores = score(components={"length": "tests.rewards.test_combine.length"})
    close(scores.rewards, [4.0, 2.0])


@pytest.mark.parametrize(
    ("components", "weights", "message"),
    [
        ({"length": "tests.rewards.test_combine.lenght"}, None, "lenght"),
        ({"length": "lenght"}, None, "package.module.name"),
        ({"verifier": length}, None, "verifier"),
        ({"length": length}, {"lenght": 1.0}, "Use verifier, length"),
    ],
)
def test_mistakes_are_named(components, weights, message):
    with pytest.raises(UserError, match=message):
        WeightedRewards(components, weights)
