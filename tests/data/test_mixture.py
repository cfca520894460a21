from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from lit_sdpo.callbacks import ForgettingMatrix, InitialEvaluation, SampleLogger, StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.cli import main
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.mixture import Mixture, Share
from lit_sdpo.data.stream import WindowLoader
from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict
from tests.training import Toy, Watch, assert_equal, fit, lively, method, rollout_callback, toy_data, weights


class Named(Toy):
    """A task whose verdicts say whose they are; prompts of different tasks have the same ids."""

    def verify(self, completion, row):
        assert row.messages[0]["content"].startswith(f"{self.name} ")
        return Verdict(float(len(completion) % 2), flags=(self.name,))


def mixture(*shares, order="interleaved"):
    return Mixture([Share(task=Named(name), share=share) for name, share in zip("abcd", shares, strict=False)], order)


def loader(task, steps=6, prompts=4, index=0, **options):
    return WindowLoader(Stage(task=task, steps=steps, prompts_per_step=prompts), index, **options)


def parts(batch):
    return [batch.task.part_of(row).name for row in batch.rows]


@pytest.mark.parametrize(("order", "windows"), [("interleaved", ["abca"] * 6), ("blocked", ["aaaa"] * 3)])
def test_windows_hold_the_shares(order, windows):
    found = ["".join(parts(batch)) for batch in loader(mixture(0.5, 0.25, 0.25, order=order))]
    assert found[: len(windows)] == windows
    assert Counter("".join(found)) == {"a": 12, "b": 6, "c": 6}


def test_every_task_goes_through_its_rows_in_an_order_of_its_own():
    order = [
        (batch.task.part_of(row).name, row.id) for batch in loader(mixture(0.5, 0.5), steps=6) for row in batch.rows
    ]
    by_task = {name: [row for task, row in order if task == name] for name in "ab"}
    assert sorted(by_task["a"]) == sorted(by_task["b"]) == sorted(row.id for row in Toy().rows("train"))
    assert by_task["a"] != by_task["b"]


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_the_prompts_of_one(ranks):
    whole = [list(zip(b.positions, b.rows, strict=True)) for b in loader(mixture(0.7, 0.3), prompts=5)]
    divided = [loader(mixture(0.7, 0.3), prompts=5, rank=rank, world_size=ranks) for rank in range(ranks)]
    for window, *others in zip(whole, *divided, strict=True):
        assert window == [pair for b in others for pair in zip(b.positions, b.rows, strict=True)]


def test_a_restored_loader_goes_on_exactly():
    first, second = loader(mixture(0.6, 0.4), slots=2), loader(mixture(0.6, 0.4), slots=2)
    whole = [[row.id for row in batch.rows] for batch in first]
    second.load_state_dict({"handed_out": 5})
    assert [[row.id for row in batch.rows] for batch in second] == whole[5:]


def test_spare_prompts_are_others_at_the_same_shares():
    batch = next(iter(loader(mixture(0.5, 0.5))))
    again = [batch.spare(number) for number in (0, 1)]
    assert [parts(some) for some in again] == [parts(batch)] * 2
    assert len({tuple(row.id for row in some.rows) for some in (batch, *again)}) == 3


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((0.5, 0.4), r"sum to 0.9 \(a 0.5, b 0.4\)"),
        ((0.7, 0.7), "sum to 1.4"),
        ((1.0,), "a mixture of 1 task"),
        ((0.0, 1.0), "share of the task a"),
        ((-0.5, 1.5), "share of the task a"),
        ((float("nan"), 0.5), "share of the task a"),
    ],
)
def test_shares_that_are_none_are_refused(shares, words):
    with pytest.raises(UserError, match=words):
        mixture(*shares)


def test_thirds_may_be_rounded():
    assert [float(share) for share in mixture(0.333333, 0.333333, 0.333334).shares] == pytest.approx([1 / 3] * 3, 1e-5)


def test_tasks_that_cannot_be_told_apart_are_refused():
    a, b = Share(task=Toy("a"), share=0.5), Share(task=Toy("a"), share=0.5)
    with pytest.raises(UserError, match="'a' stands twice"):
        Mixture([a, b])
    with pytest.raises(UserError, match="reads like that of a mixture"):
        Mixture([a, Share(task=Toy("b + c"), share=0.5)])
    with pytest.raises(UserError, match="is a mixture itself"):
        Mixture([a, Share(task=Mixture([Share(task=Toy(n), share=0.5) for n in "bc"]), share=0.5)])
    with pytest.raises(UserError, match="no such order"):
        Mixture([a, Share(task=Toy("b"), share=0.5)], "shuffled")
    mixed = Stage(task=mixture(0.5, 0.5), steps=1)
    with pytest.raises(UserError, match="two different tasks are named 'a'"):
        ContinualDataModule([mixed, Stage(task=Toy("a", size=5), steps=1)])


def test_the_stream_knows_its_tasks():
    one, a = mixture(0.5, 0.5), Named("c")
    data = ContinualDataModule([Stage(task=a, steps=1), Stage(task=one, steps=1)])
    assert data.stage_names == ["c", "a + b"]
    assert data.task_names == ["c", "a", "b"]
    assert [task.name for task in data.earlier_tasks(1)] == ["c"]
    assert [task.name for task in ContinualDataModule([Stage(task=one), Stage(task=a)]).earlier_tasks(1)] == ["a", "b"]


def run(folder, tiny, kind, steps=4, replay=False, **options):
    watch, options = Watch(), {"ckpt_path": None} | options
    module = method(kind, tiny, **({"replay_coefficient": 0.5} if replay else {}))
    stages = [(Named("c"), 1), (mixture(0.5, 0.5), steps)] if replay else [(mixture(0.5, 0.25, 0.25), steps)]
    stages = [Stage(task=task, steps=count, prompts_per_step=4) for task, count in stages]
    share = {"replay_share": 0.25} if replay else {}
    data = ContinualDataModule(stages, eval_prompts=3, eval_generations=2, seed=3, eval_every=None, **share)
    callbacks = [
        InitialEvaluation(),
        ForgettingMatrix(),
        SampleLogger(),
        StageCheckpoint(every_n_steps=2, keep_steps=9),
    ]
    settings = {"enable_checkpointing": True, "plugins": [SafeCheckpointIO()], "limit_val_batches": 1.0}
    rollout = rollout_callback(rewards=lively() if kind == "grpo" else None)
    made = fit(folder, module, data, *callbacks, watch, rollout=rollout, **settings, **options)
    return module, made, watch


@pytest.mark.parametrize("kind", ["grpo", "sdpo", "sft"])
def test_training_resumes_bit_for_bit_and_evaluates_task_by_task(tiny, tmp_path, kind):
    module, made, watch = run(tmp_path / "whole", tiny, kind)
    for entry in watch.of("train"):
        rollouts = entry["rollouts"]
        assert Counter(rollouts.tasks) == {"a": 2, "b": 1, "c": 1}
        flags = [verdict.flags[0] for verdict in rollouts.verdicts]
        assert flags == [name for name in rollouts.tasks for _ in range(4)][: len(flags)]
    matrix = json.loads(next((tmp_path / "whole").rglob("matrix.json")).read_text())
    assert [row["label"] for row in matrix["rows"]] == ["base", "a + b + c"]
    assert matrix["tasks"] == ["a", "b", "c"]
    assert "*" in next((tmp_path / "whole").rglob("matrix.md")).read_text()
    assert {"val/a/accuracy", "val/b/accuracy", "val/c/accuracy"} <= set(made.callback_metrics)
    samples = [json.loads(line) for line in next((tmp_path / "whole").rglob("samples.jsonl")).read_text().splitlines()]
    trained = Counter(sample["task"] for sample in samples if sample["split"] == "train")
    assert trained["a"] == 2 * trained["b"] == 2 * trained["c"] > 0
    if kind != "sft":
        assert {f"rollout/{name}/reward" for name in "abc"} <= set(made.callback_metrics)
        means = [float(made.callback_metrics[f"rollout/{name}/reward"]) for name in "aabc"]
        assert float(made.callback_metrics["rollout/reward"]) == pytest.approx(sum(means) / 4)
    checkpoint = next((tmp_path / "whole").rglob("step=2.ckpt"))
    again, _, _ = run(tmp_path / "again", tiny, kind, ckpt_path=str(checkpoint))
    assert_equal(weights(module), weights(again))


def test_earlier_tasks_are_replayed_in_a_mixture(tiny, tmp_path):
    _, _, watch = run(tmp_path, tiny, "grpo", steps=2, replay=True)
    later = [entry["rollouts"] for entry in watch.of("train") if entry["stage"] == 1]
    assert [Counter(rollouts.tasks) for rollouts in later] == [{"a": 2, "b": 2, "c": 1}] * 2


def test_a_task_without_a_prompt_in_the_window_is_not_logged(tiny, tmp_path):
    module = method("grpo", tiny)
    data = ContinualDataModule([Stage(task=mixture(0.5, 0.5), steps=1, prompts_per_step=1)], seed=3)
    made = fit(tmp_path, module, data, rollout=rollout_callback(rewards=lively()))
    assert "rollout/a/reward" in made.callback_metrics
    assert "rollout/b/reward" not in made.callback_metrics


ROOT = Path(__file__).parents[2]
CONFIG = """
extends: {root}/configs/examples/grpo_real_tasks.yaml
model: {{init_args: {{model_name: micro}}}}
data:
  init_args:
    stages:
      - steps: 2
        prompts_per_step: 4
        task:
          class_path: Mixture
          init_args:
            order: {order}
            shares:
              - share: {share}
                task:
                  class_path: JsonlTask
                  init_args: {{name: math, train: {files}/gsm8k_train.jsonl, validation: {files}/gsm8k_test.jsonl}}
              - share: 0.5
                task:
                  class_path: JsonlTask
                  init_args:
                    name: science
                    train: {files}/sciknoweval_chemistry_train.jsonl
                    validation: {files}/sciknoweval_chemistry_test.jsonl
    probes: []
"""


def write(tmp_path, share=0.5, order="interleaved"):
    text = CONFIG.format(root=ROOT, files=f"{ROOT}/tests/data/files", share=share, order=order)
    (tmp_path / "mix.yaml").write_text(text)
    return str(tmp_path / "mix.yaml")


def test_a_configuration_names_shares_and_tasks(tmp_path, capsys):
    path = write(tmp_path)
    assert main(["data", "check", path, "--model", "micro", "--max-prompt-tokens", "4096", "--json"]) in (0, 2)
    checked = json.loads(capsys.readouterr().out)
    assert {(group["task"], group["split"]) for group in checked["groups"]} == {
        (task, split) for task in ("math", "science") for split in ("train", "validation")
    }
    assert main(["plan", path, "--json"]) == 0
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["task"] == "math + science"


@pytest.mark.parametrize(("changed", "words"), [({"share": 0.25}, "sum to 0.75"), ({"order": "random"}, "order")])
def test_mistakes_in_a_configuration_are_named(tmp_path, capsys, changed, words):
    assert main(["fit", "--config", write(tmp_path, **changed), "--trainer.fast_dev_run=true"]) == 2
    assert words in capsys.readouterr().err


def test_names_stay_those_of_a_plain_stream(tiny, tmp_path):
    watch = Watch()
    fit(tmp_path, method("grpo", tiny), toy_data(("a",)), watch, rollout=rollout_callback(rewards=lively()))
    assert {name for entry in watch.of("train") for name in entry["rollouts"].tasks} == {"a"}
