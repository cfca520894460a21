"""Reward functions written for TRL, unchanged: what they are called with, what they may say, what is made of it."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
import torch

from lit_sdpo.callbacks import SampleLogger
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.readers import read_rows
from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from tests.modules.test_base import Record
from tests.training import Watch, fit, method, rollout_callback

CHAT = [
    {"prompt": [{"role": "user", "content": f"{n}+{n}?"}], "solution": str(2 * n), "level": n, "tags": ["a", "b"]}
    for n in range(1, 7)
]
TEXT = [{"prompt": f"{n}+{n}?", "answer": 2 * n, "level": n, "scores": [n]} for n in range(1, 7)]


def brevity(completions, **kwargs):
    """TRL's first example: texts for texts."""
    return [-len(completion) / 10 for completion in completions]


def solved(prompts, completions, completion_ids, solution, trainer_state, log_extra, log_metric, **kwargs):
    """Messages for messages; everything that TRL offers; nothing to say of the first prompt."""
    texts = [completion[0]["content"] for completion in completions]
    log_extra("gold", solution)
    log_metric("solved/length", sum(map(len, completion_ids)) / len(completion_ids))
    progress = trainer_state.global_step / max(trainer_state.max_steps, 1)
    return [
        None if prompt[-1]["content"] == "1+1?" else float(gold in text) + len(text) % 2 - progress
        for prompt, text, gold in zip(prompts, texts, solution, strict=True)
    ]


async def later(completions, log_metric, **kwargs):
    await asyncio.sleep(0)
    log_metric("waited", 1.0)
    return [0.0] * len(completions)


def write(folder, rows, name="train.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def stream(folder, rows, test=(), **options):
    task = JsonlTask("sums", write(folder, rows), write(folder, test, "test.jsonl") if test else None, **options)
    return ContinualDataModule([Stage(task=task, steps=2, prompts_per_step=3)], eval_prompts=2, eval_generations=2)


def as_trl_gives_them(rows, generations):
    """Columns of a window as ``GRPOTrainer._calculate_rewards`` of TRL 1.16 hands them to a reward."""
    repeated = [row for row in rows for _ in range(generations)]
    keys = [key for key in repeated[0] if key not in ("prompt", "completion", "completion_ids")]
    columns = {key: [row[key] for row in repeated] for key in keys}
    return {"prompts": [row["prompt"] for row in repeated], **columns}


@pytest.mark.parametrize("rows", [CHAT, TEXT], ids=["conversational", "text"])
def test_a_reward_gets_what_trl_would_give_it(tiny, tmp_path, rows):
    calls = []

    def look(**arguments):
        calls.append(arguments)
        return [float(n) for n in range(len(arguments["prompts"]))]

    watch = Watch()
    fit(tmp_path, method("grpo", tiny), stream(tmp_path, rows), watch, rollout=rollout_callback(rewards=look))
    assert len(calls) == 2
    for step, (call, seen) in enumerate(zip(calls, watch.of("train"), strict=True)):
        rollouts = seen["rollouts"]
        asked = [row.messages[-1]["content"] for row in rollouts.rows]
        by_prompt = {r["prompt"] if isinstance(r["prompt"], str) else r["prompt"][-1]["content"]: r for r in rows}
        expected = as_trl_gives_them([by_prompt[text] for text in asked], rollouts.num_generations)
        assert {name: call[name] for name in expected} == expected
        texts = [c if isinstance(c, str) else c[0]["content"] for c in call["completions"]]
        assert texts == rollouts.texts
        assert all(isinstance(c, str) == isinstance(rows[0]["prompt"], str) for c in call["completions"])
        assert [len(ids) for ids in call["completion_ids"]] == rollouts.completions.lengths.tolist()
        state = call["trainer_state"]
        assert (state.global_step, state.max_steps, state.epoch) == (step, 2, step / 2)
        assert rollouts.scores.isnan().all()  # nobody has judged
        assert rollouts.rewards.tolist() == [float(n) for n in range(len(rollouts))]


def test_what_rewards_say_is_logged_and_kept(tiny, tmp_path):
    record = Record()
    rewards = [solved, later]
    rollout = rollout_callback(rewards=rewards, reward_weights=[0.5, 1.0])
    data = stream(tmp_path, CHAT, test=CHAT[:2])
    made = fit(
        tmp_path, method("grpo", tiny), data, SampleLogger(every_n_steps=1), record, rollout=rollout,
        limit_val_batches=1.0, num_sanity_val_steps=0,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    by_question = {row["prompt"][0]["content"]: row["solution"] for row in CHAT}
    assert lines
    for line in lines:
        assert line["told"] == {"gold": by_question[line["prompt"][0]["content"]]}
        assert line["score"] is None
        assert (line["reward"] == 0.0) >= (line["prompt"][0]["content"] == "1+1?")  # the other reward's 0 is left
    window = [line for line in lines if line["split"] == "train" and line["step"] == 1]
    lengths = [line["length"] for line in window]
    assert record.logged[1]["rollout/metric/solved/length"] == pytest.approx(sum(lengths) / len(lengths))
    assert record.logged[1]["rollout/metric/waited"] == 1.0
    metrics = made.callback_metrics
    evaluated = [line["reward"] for line in lines if line["split"] == "validation" and line["step"] == 2]
    assert float(metrics["val/sums/reward"]) == pytest.approx(sum(evaluated) / len(evaluated), abs=1e-6)
    assert float(metrics["val/sums/metric/waited"]) == 1.0
    assert metrics["val/sums/accuracy"].isnan()


def test_with_a_verifier_its_score_is_a_reward_among_others(tiny, tmp_path):
    data = stream(tmp_path, TEXT, verifier="exact_text")
    rollout = rollout_callback(rewards=brevity, reward_weights={"verifier": 2.0, "brevity": 1.0})
    watch = Watch()
    fit(tmp_path, method("grpo", tiny), data, watch, rollout=rollout)
    rollouts = watch.of("train")[0]["rollouts"]
    expected = [2.0 * s - len(t) / 10 for s, t in zip(rollouts.scores.tolist(), rollouts.texts, strict=True)]
    torch.testing.assert_close(rollouts.rewards, torch.tensor(expected))


def test_rewards_by_path_are_those_by_object():
    here = "tests.rewards.test_trl"
    given = WeightedRewards.of([f"{here}.brevity", later], [0.25, 0.0])
    assert given.components == {"brevity": brevity, "later": later}
    assert given.weights == {"verifier": 1.0, "brevity": 0.25, "later": 0.0}
    assert WeightedRewards.of(f"{here}.brevity").weights == {"verifier": 1.0, "brevity": 1.0}
    assert WeightedRewards.of(None).components == {}
    assert WeightedRewards.of(given) is given


@pytest.mark.parametrize(
    ("given", "weights", "message"),
    [
        ("tests.rewards.test_trl.brevty", None, r"rollout.rewards: cannot import .*my_module.my_function|brevty"),
        (["brevity"], None, r"rollout.rewards\[0\]: cannot import 'brevity'"),
        ([brevity, brevity], None, "two rewards are called 'brevity'"),
        ([brevity], [1.0, 2.0], "2 weights for 1 rewards"),
        ([brevity], {"brevty": 1.0}, "no such component 'brevty'. Use verifier, brevity"),
        (WeightedRewards(), [1.0], "rollout.reward_weights: rollout.rewards has weights of its own"),
        ([3], None, r"rollout.rewards\[0\]: .*3 is no function"),
    ],
)
def test_mistakes_are_named(given, weights, message):
    with pytest.raises(UserError, match=message):
        WeightedRewards.of(given, weights)


def test_what_is_said_wrongly_fails_the_reward_alone(caplog):
    def short(completions, log_extra, **kwargs):
        log_extra("gold", ["only one"])
        return [1.0] * len(completions)

    found = WeightedRewards.of([short, brevity])([Verdict(None)] * 2, ["?"] * 2, ["a", "bc"])
    assert found.failures == {"verifier": 0, "short": 2, "brevity": 0}
    assert found.told.columns == {}
    assert "1 values for 2 completions" in caplog.text


def test_rows_that_nobody_judges_are_refused_before_the_first_step(tiny, tmp_path):
    watch = Watch()
    with pytest.raises(UserError, match=r"task sums \(train\): row .* has no verifier.*rollout.rewards"):
        fit(tmp_path, method("grpo", tiny), stream(tmp_path, CHAT), watch)
    with pytest.raises(UserError, match="has no verifier"):  # what has no weight judges nothing
        fit(tmp_path, method("grpo", tiny), stream(tmp_path, CHAT), watch,
            rollout=rollout_callback(rewards=[solved], reward_weights=[0.0]))  # fmt: skip
    assert not watch.seen


def test_a_column_that_rows_lack_is_named_before_the_first_step(tiny, tmp_path):
    watch = Watch()
    with pytest.raises(UserError, match=r"asks for 'solution', which task sums \(train\) has not.*answer.*level"):
        fit(tmp_path, method("grpo", tiny), stream(tmp_path, TEXT), watch, rollout=rollout_callback(rewards=solved))
    assert not watch.seen


# ------------------------------------------------------------------------------------------------------------- the rows
def test_conversations_need_no_id_and_keep_theirs_in_any_order(tmp_path):
    rows, _ = read_rows(write(tmp_path, CHAT))
    assert len({row.id for row in rows}) == len(CHAT)
    mixed = CHAT.copy()
    random.Random(0).shuffle(mixed)
    again, _ = read_rows(write(tmp_path, mixed))
    assert {row.messages[-1]["content"]: row.id for row in rows} == {r.messages[-1]["content"]: r.id for r in again}
    other, _ = read_rows(write(tmp_path, [{**CHAT[0], "solution": "3"}]))
    assert other[0].id not in {row.id for row in rows}  # another answer is another row
    twice, _ = read_rows(write(tmp_path, [CHAT[0], CHAT[1], CHAT[0]]))
    assert [twice[0].id, f"{twice[0].id}-2"] == [twice[0].id, twice[2].id]
    own, _ = read_rows(write(tmp_path, [{**CHAT[0], "id": 7}]))
    assert (own[0].id, own[0].columns["id"]) == ("7", 7)


@pytest.mark.parametrize(
    "row", [{"prompt": "1+1?"}, {"prompt": CHAT[0]["prompt"]}, {"prompt": "1+1?", "answer": {"value": [2]}}]
)
def test_an_answer_is_for_who_needs_one(tmp_path, row):
    (found,), _ = read_rows(write(tmp_path, [row]))
    assert (found.verifier, found.reference) == ("", None)
    assert found.columns == {name: value for name, value in row.items() if name != "prompt"}
    with pytest.raises(UserError, match=r"field '(answer|ground_truth)'"):
        read_rows(write(tmp_path, [row]), verifier="exact_text")


def test_rows_of_uneven_columns_have_all_of_them(tmp_path):
    task = JsonlTask("sums", write(tmp_path, [{"prompt": "a", "hint": "b"}, {"prompt": "c", "level": 1}]))
    assert [row.columns for row in task.rows("train")] == [{"hint": "b", "level": None}, {"hint": None, "level": 1}]


def test_columns_of_other_layouts_reach_rewards_too(tmp_path):
    row = {"question": "1+1?", "answer": "It is\n#### 2", "source": "book"}
    (found,), _ = read_rows(write(tmp_path, [row]))
    assert found.columns == row
    assert found.ground_truth == "2"
    mapped, _ = read_rows(
        write(tmp_path, [row]), {"prompt": "question", "ground_truth": "source"}, verifier="exact_text"
    )
    assert mapped[0].columns == {**row, "ground_truth": "book"}
    assert not mapped[0].conversational
