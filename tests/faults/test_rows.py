"""R, G, D, V, C: faults of rewards, weights, data, verifiers and surroundings that no other test makes happen."""

import json
import logging
import os
import shutil
import sys
import time

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_sdpo.checkpoints.manifest import in_order
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.failures import explain_failure
from lit_sdpo.modules import GRPO
from lit_sdpo.policies.load import load_policy
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rewards.registry import verifier
from tests.faults.runs import model, stream, train
from tests.faults.test_files import Payload
from tests.training import Toy, fit, lively, method, rollout_callback, toy_data, weights


# ------------------------------------------------------------------------------------------------------------- rewards
def test_r08_a_reward_that_changes_its_inputs_changes_nothing_else():
    def vandal(prompts, completions, completion_ids, extra, scores, **columns):
        prompts[0][0]["content"] = "changed"
        extra[0].clear()
        completions.clear()
        completion_ids[0].clear()
        scores[0] = 5.0
        return [0.0]

    def witness(prompts, completions, completion_ids, extra, scores, **columns):
        return [
            float(prompts[0][0]["content"] == "?" and completions == ["a"] and completion_ids == [[1]] and scores[0])
        ]

    row = {
        "prompts": [[{"role": "user", "content": "?"}]],
        "completions": ["a"],
        "completion_ids": [[1]],
        "extra": [{"k": 1}],
    }
    found = WeightedRewards({"vandal": vandal, "witness": witness})([Verdict(1.0)], **row)
    assert found.rewards.tolist() == [2.0]
    assert row["prompts"][0][0]["content"] == "?"
    assert row["extra"] == [{"k": 1}]


def test_r12_a_missing_column_is_named_before_the_first_step(tiny, tmp_path):
    def needy(prompts, completions, answer, **columns):
        return [0.0] * len(completions)

    module = method("grpo", tiny)
    with pytest.raises(UserError, match=r"components.needy: the reward asks for 'answer'.*completions.*ground_truth"):
        fit(tmp_path, module, toy_data(), rollout=rollout_callback(rewards=WeightedRewards({"needy": needy})))


def test_r13_a_closure_needs_no_pickling_and_r09_may_print(capfd):
    limit = 3

    def brief(prompts, completions, **columns):
        print("x" * 100_000)
        return [float(len(c) < limit) for c in completions]

    assert WeightedRewards({"brief": brief}, {"verifier": 0})([Verdict(None)], ["?"], ["ab"]).rewards.tolist() == [1.0]
    assert len(capfd.readouterr().out) == 100_001


# ------------------------------------------------------------------------------------------------ generation and steps
class Poison(pl.Callback):
    """Puts a NaN into a weight, or into its gradient, in the third step."""

    def __init__(self, where):
        self.where = where

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.where == "weight" and trainer.global_step == 2:
            next(pl_module.policy.parameters()).data[5, 3] = torch.nan

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.where == "gradient" and trainer.global_step == 2:
            next(pl_module.policy.parameters()).grad[5, 3] = torch.nan


@pytest.mark.parametrize("where", ["g10_weight", "g11_gradient"])
def test_no_checkpoint_holds_weights_that_are_not_finite(tiny, tmp_path, where):
    """The run stops, and the newest checkpoint is the one of the step before."""
    with pytest.raises(FloatingPointError, match=r"not finite|no longer finite at step 3"):
        train(tmp_path, model(tiny, "grpo"), stream(tasks=["a"], eval_every=None), Poison(where[4:]))
    newest = in_order(tmp_path / "checkpoints")[0]
    assert newest.name == "step=2.ckpt"
    state = torch.load(newest, weights_only=True)["state_dict"]
    assert all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    ],
)
def test_g14_out_of_memory_names_what_to_turn(error):
    said = explain_failure(error)
    assert "\n" not in said
    for knob in ("max_new_tokens", "prompts_per_step", "accumulate_grad_batches", "gradient_checkpointing"):
        assert knob in said
    assert explain_failure(RuntimeError("shape mismatch")) is None


def test_f23_a_group_of_one_has_no_spread_and_moves_nothing(tiny, tmp_path):
    module = method("grpo", tiny)
    module.configure_model()
    before = weights(module)
    made = fit(tmp_path, module, toy_data(), rollout=rollout_callback(rewards=lively(), num_generations=1))
    assert float(made.callback_metrics["rollout/flat_groups"]) == 1
    assert all(torch.equal(before[name], weight) for name, weight in weights(module).items())


# ---------------------------------------------------------------------------------------------------------------- data
@pytest.mark.parametrize(
    ("truth", "text"), [("-12", "\\boxed{\u221212}"), ("12", "\\boxed{\uff11\uff12}"), ("12", "\\boxed{\u00a012}")]
)
def test_d04_unicode_forms_of_an_answer_mean_the_same(truth, text):
    """Unicode's minus, full-width digits, a no-break space."""
    assert verifier("math_boxed")(text, Row(id="x", messages=[], ground_truth=truth, verifier="math_boxed")).score == 1


def test_d05_a_task_name_is_no_path(tiny, tmp_path):
    folder = tmp_path / "one" / "two" / "run"
    hostile = Toy("../../outside/" + "x" * 200)
    train(folder, method("grpo", tiny), toy_data([hostile, Toy("CON")], eval_prompts=1, eval_generations=1))
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents]
    assert outside == []
    assert (folder / "matrix.json").exists()
    with pytest.raises(UserError, match="no name"):
        toy_data([Toy("")])


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "url"])
def test_d06_only_files_are_read(tmp_path, kind):
    """A FIFO or device is refused, not waited for."""
    path = {"device": "/dev/zero", "url": "https://example.org/rows.jsonl"}.get(kind, str(tmp_path / "rows.jsonl"))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(UserError, match="there is no file"):
        JsonlTask("a", train=path).rows("train")


def test_d08_fewer_prompts_than_a_step_takes_are_repeated(tiny, tmp_path):
    class One(Toy):
        def rows(self, split):
            return super().rows(split)[:1]

    assert fit(tmp_path, method("grpo", tiny), toy_data([One("a")], steps=2, prompts=3)).global_step == 2


# ----------------------------------------------------------------------------------------------------------- verifiers
@pytest.mark.parametrize(
    ("name", "truth"),
    [("math_boxed", "12"), ("numeric_boxed", "12"), ("mcq_boxed", "B"), ("mcq_xml", "B"), ("exact_answer", "12")],
)
def test_v02_answers_that_only_claim_to_be_right_score_nothing(name, truth):
    row = Row(id="x", messages=[{"role": "user", "content": f"Is it {truth}?"}], ground_truth=truth, verifier=name)
    every = " ".join(f"\\boxed{{{letter}}}" for letter in "ABCD")
    texts = [
        "",
        "the answer is correct",
        "The correct answer is: YES",
        ":",
        "Thought process:",
        row.messages[0]["content"],
    ]
    for text in [*texts, "\\boxed{A, B, C, D}", "<answer>A B C D</answer>", f"{every} \\boxed{{}}"]:
        assert not verifier(name)(text, row).score, text


# -------------------------------------------------------------------------------------------------- tasks, surroundings
def test_c01_no_tasks_are_refused():
    with pytest.raises(UserError, match="no stages"):
        toy_data([])


class NotANumber(pl.Callback):
    """Reports 0.5 in the first stage and NaN after it."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", torch.tensor(torch.nan if trainer.current_epoch else 0.5))


def test_c07_a_metric_that_is_no_number_is_not_the_best(tiny, tmp_path, caplog):
    best = ModelCheckpoint(tmp_path / "best", monitor="score", mode="max", save_top_k=1)
    stopping = EarlyStopping("score", mode="max", check_finite=True, verbose=True)
    with caplog.at_level(logging.INFO):
        made = train(tmp_path, method("grpo", tiny), toy_data(["a", "b", "c"]), NotANumber(), best, stopping)
    assert made.global_step == 2
    assert float(best.best_model_score) == 0.5
    assert "score = nan is not finite" in caplog.text


def test_c08_a_clock_that_goes_back_does_not_matter(tiny, tmp_path, monkeypatch):
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(calls))
    made = fit(tmp_path, method("grpo", tiny), toy_data(), limit_val_batches=1.0)
    durations = {name: float(value) for name, value in made.callback_metrics.items() if name.startswith("time/")}
    assert len(durations) > 2
    assert all(0 <= seconds < 600 for seconds in durations.values()), durations


def hostile(tiny, folder):
    shutil.copytree(tiny, folder)
    return folder, folder.parent / "marker"


def test_c15_pickled_weights_that_would_run_code_are_refused(tiny, tmp_path):
    folder, marker = hostile(tiny, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Payload(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="could run code"):
        load_policy(str(folder))
    assert not marker.exists()


def test_c15_code_in_a_model_folder_is_neither_run_nor_asked_about(tiny, tmp_path, monkeypatch):
    folder, marker = hostile(tiny, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asks"))
    with pytest.raises(UserError, match="needs Python code"):
        load_policy(str(folder))
    assert not marker.exists()


def test_f09_a_class_path_in_a_checkpoint_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "foreign_module.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    crafted = {"_instantiator": "foreign_module.make", "_class_path": "foreign_module.Module"}
    path = tmp_path / "crafted.ckpt"
    torch.save({"state_dict": {}, "pytorch-lightning_version": pl.__version__, "hyper_parameters": crafted}, path)
    with pytest.raises(ValueError, match="not in the allowlist"):
        GRPO.load_from_checkpoint(path)
    assert "foreign_module" not in sys.modules
    assert not (tmp_path / "marker").exists()
