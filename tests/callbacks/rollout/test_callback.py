from __future__ import annotations

from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_sdpo.callbacks import InitialEvaluation, RolloutCallback, SampleLogger
from lit_sdpo.data.micro.datamodule import MicroDataModule
from lit_sdpo.errors import UserError
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.types import Sampling
from tests.training import (
    Toy,
    Watch,
    adamw,
    assert_equal,
    fit,
    lively,
    method,
    rollout_callback,
    toy_data,
    trainer,
    weights,
)


class Counting(NativeEngine):
    """The native engine, with a record of what it was asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def generate(self, policy, prompts, **options):
        self.asked.append((len(prompts), options["num_generations"], policy.training, torch.is_grad_enabled()))
        return super().generate(policy, prompts, **options)


def micro(**options):
    settings = {"order": ["math", "sci"], "steps": 2, "prompts_per_step": 3, "ood": False, "prior": False, "seed": 1}
    return MicroDataModule(**(settings | {"eval_prompts": 3, "eval_generations": 2} | options))


def run(tmp_path, tiny, kind="grpo", data=None, callbacks=(), rollout=None, **options):
    watch = Watch()
    module = method(kind, tiny, optimizer=adamw)
    made = fit(
        tmp_path,
        module,
        data or micro(),
        watch,
        *callbacks,
        rollout=rollout or rollout_callback(rewards=lively()),
        **options,
    )
    return module, watch, made


def drawn(entry):
    rollouts = entry["rollouts"]
    return [row.id for row in rollouts.rows], rollouts.completions.ids.tolist(), rollouts.rewards.tolist()


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
@pytest.mark.parametrize("slots", [1, 2])
def test_it_generates_once_per_window_for_all_prompts(tmp_path, tiny, kind, slots):
    engine = Counting()
    _, watch, made = run(
        tmp_path, tiny, kind, rollout=rollout_callback(engine=engine, rewards=lively()), accumulate_grad_batches=slots
    )
    assert engine.asked == [(3, 4, False, False)] * 4
    assert [(e["task"], e["stage"], e["step"]) for e in watch.of("train")] == [
        ("math", 0, 0),
        ("math", 0, 1),
        ("sci", 1, 2),
        ("sci", 1, 3),
    ]
    assert made.global_step == 4


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_f24_samples_do_not_depend_on_how_a_step_is_cut(tmp_path, tiny, kind):
    first = [
        drawn(run(tmp_path, tiny, kind, micro(order=["math"]), accumulate_grad_batches=k)[1].of("train")[0])
        for k in (1, 2, 3)
    ]
    assert first[0] == first[1] == first[2]
    ids, completions, _ = first[0]
    assert len(set(ids)) == 3
    assert len({tuple(c) for c in completions}) > 3


def test_two_updates_share_the_rollouts(tmp_path, tiny):
    engine = Counting()
    data = micro(updates_per_rollout=2, order=["math"], steps=4)
    rollout = rollout_callback(engine=engine, rewards=lively())
    _, watch, made = run(tmp_path, tiny, data=data, rollout=rollout)
    assert len(engine.asked) == 2
    assert [entry["step"] for entry in watch.of("train")] == [0, 2]
    assert made.global_step == 4


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_looking_on_changes_nothing(tmp_path, tiny, kind):
    alone, _, _ = run(tmp_path, tiny, kind)
    before = torch.random.get_rng_state()
    watched, _, _ = run(
        tmp_path,
        tiny,
        kind,
        data=micro(eval_every=1),
        callbacks=[InitialEvaluation(), SampleLogger(every_n_steps=1)],
        limit_val_batches=1.0,
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_equal(weights(alone), weights(watched))


def test_evaluation_draws_the_same_at_any_time(tmp_path, tiny):
    data = micro(eval_every=1)
    frozen = method("grpo", tiny, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    watch = Watch()
    made = fit(
        tmp_path,
        frozen,
        data,
        watch,
        InitialEvaluation(),
        rollout=rollout_callback(rewards=lively()),
        limit_val_batches=1.0,
    )
    for task in ("math", "sci"):
        entries = [entry for entry in watch.of("validation") if entry["task"] == task]
        assert [entry["step"] for entry in entries] == [0, 1, 2, 3, 4]
        assert all(drawn(entry) == drawn(entries[0]) for entry in entries)
    assert made.global_step == 4
    tests = Watch()
    trainer(tmp_path, data, rollout_callback(), tests).test(frozen, data, verbose=False)
    assert [entry["split"] for entry in tests.seen] == ["test", "test"]
    assert not {r.id for r in tests.seen[0]["rollouts"].rows} & {
        r.id for r in watch.of("validation")[0]["rollouts"].rows
    }


def test_evaluation_reports_each_item(tmp_path, tiny):
    data = toy_data([Toy("even"), Toy("odd", score=lambda text: None if len(text) % 3 else 1.0)], eval_prompts=3)
    callback, watch = rollout_callback(), Watch()
    made = trainer(tmp_path, data, callback, watch, limit_val_batches=1.0)
    module = method("grpo", tiny)
    logged = made.validate(module, data, verbose=False)
    values = {name: value for each in logged for name, value in each.items()}
    for entry in watch.seen:
        rollouts, name = entry["rollouts"], entry["task"]
        scores = [verdict.score for verdict in rollouts.verdicts]
        items = {}
        for row, pair in zip(rollouts.rows, (scores[:2], scores[2:4], scores[4:]), strict=True):
            known = [score for score in pair if score is not None]
            if known:
                items[row.id] = known
        assert callback.item_scores[name] == items
        means = [sum(scores) / len(scores) for scores in items.values()]
        assert values[f"val/{name}/accuracy"] == pytest.approx(sum(means) / len(means))
        assert values[f"val/{name}/length"] == pytest.approx(rollouts.completions.lengths.float().mean().item())
        assert values[f"val/{name}/truncated"] == pytest.approx(1 - rollouts.completions.finished.float().mean().item())
        assert values[f"val/{name}/invalid"] == 0
    assert values["step"] == 0
    assert values["time/evaluation"] > 0


def test_a_task_that_nothing_was_measured_on_has_no_accuracy(tmp_path, tiny):
    data, callback = toy_data([Toy(score=lambda text: None)]), rollout_callback()
    logged = trainer(tmp_path, data, callback, limit_val_batches=1.0).validate(
        method("grpo", tiny), data, verbose=False
    )
    assert torch.tensor(logged[0]["val/toy/accuracy"]).isnan()
    assert callback.item_scores == {"toy": {}}


def test_an_evaluation_s_step_names_no_later_checkpoint(tmp_path, tiny):
    saving = ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    data = toy_data(steps=4, eval_every=2)
    fit(tmp_path, method("grpo", tiny), data, saving, limit_val_batches=1.0, enable_checkpointing=True)
    assert {p.name for p in (tmp_path / "steps").iterdir()} == {f"step={n}.ckpt" for n in (1, 2, 3, 4)}


class Logged(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values = {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_training_logs_means_of_all_completions(tmp_path, tiny):
    logged, watch = Logged(), Watch()
    fit(tmp_path, method("grpo", tiny), toy_data(), watch, logged, rollout=rollout_callback(rewards=lively()))
    rollouts, values = watch.seen[0]["rollouts"], logged.values
    lengths, rewards = rollouts.completions.lengths.tolist(), rollouts.rewards.tolist()
    groups = [set(rewards[4 * k : 4 * k + 4]) for k in range(3)]
    expected = {
        "rollout/reward": sum(rewards) / 12,
        "rollout/reward/parity": sum(rewards) / 12,
        "rollout/reward/verifier": sum(v.score for v in rollouts.verdicts) / 12,
        "rollout/failures/parity": 0,
        "rollout/abstained": 0,
        "rollout/length": sum(lengths) / 12,
        "rollout/toy/length": sum(lengths) / 12,
        "rollout/truncated": rollouts.completions.finished.tolist().count(False) / 12,
        "rollout/flat_groups": sum(len(group) == 1 for group in groups) / 3,
        "rollout/entropy": -rollouts.completions.logprobs.sum().item() / sum(lengths),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert values["rollout/tokens_per_second"] == pytest.approx(sum(lengths) / values["time/rollout"], rel=1e-4)


def test_every_submodule_keeps_its_mode(tmp_path, tiny):
    class Modes(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.found = [module.training for module in pl_module.policy.modules()]

        def on_train_start(self, trainer, pl_module):
            pl_module.policy.model.layers[0].eval()
            self.expected = [module.training for module in pl_module.policy.modules()]

    modes = Modes()
    module = method("grpo", tiny)
    fit(tmp_path, module, toy_data(steps=2, eval_every=1), modes, limit_val_batches=1.0)
    assert modes.found == modes.expected
    assert len(set(modes.expected)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_prompt_tokens": 5}, r"toy \(train\): the prompt of row 'train-\d+' has \d+ tokens"),
        ({"sampling": Sampling(max_new_tokens=1020)}, r"toy \(.*\), row '.*': prompt .* the 1024 tokens"),
    ],
)
@pytest.mark.parametrize("fn", ["fit", "validate"])
def test_g03_a_prompt_over_budget_is_refused_before_the_first_step(tmp_path, tiny, options, message, fn):
    module, data = method("grpo", tiny), toy_data()
    made = trainer(tmp_path, data, rollout_callback(**options), limit_val_batches=1.0)
    message = message if fn == "fit" else message.replace("train", "validation")
    with pytest.raises(UserError, match=message):
        getattr(made, fn)(module, data)
    assert made.global_step == 0


@pytest.mark.parametrize("limit", [int(1e30), 4096])
def test_the_model_s_own_limit_counts(tmp_path, tiny, limit):
    module, data = method("grpo", tiny), toy_data()
    module.tokenizer.model_max_length = limit
    made = trainer(tmp_path, data, rollout_callback(sampling=Sampling(max_new_tokens=1020)), limit_val_batches=1.0)
    with pytest.raises(UserError, match="1024 tokens that the model can read"):
        made.fit(module, data)
    assert made.global_step == 0


def test_only_evaluation_pays_for_its_longer_completions(tmp_path, tiny):
    rollout = rollout_callback(evaluation_sampling=Sampling(max_new_tokens=1020))
    with pytest.raises(UserError, match=r"toy \(validation\)"):
        fit(tmp_path, method("grpo", tiny), toy_data(), rollout=rollout, limit_val_batches=1.0)


def test_supervised_training_needs_answers(tmp_path, tiny):
    task = Toy()
    rows = task.rows
    task.rows = lambda split: [replace(row, reference=None) for row in rows(split)]
    with pytest.raises(UserError, match="row train-0: there is no reference answer"):
        fit(tmp_path, method("sft", tiny), toy_data([task]))


@pytest.mark.parametrize("name", ["policy", "tokenizer"])
def test_a_module_has_to_have_what_rollouts_need(tmp_path, tiny, name):
    class Bare(RolloutModule):
        def training_step(self, batch, batch_idx):
            return None

        def validation_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return None

    bare = Bare()
    setattr(bare, "tokenizer" if name == "policy" else "policy", None)
    with pytest.raises(UserError, match=f"^model: Bare has no attribute '{name}', which rollouts need$"):
        fit(tmp_path, bare, toy_data())


def test_a_module_of_another_kind_is_refused(tmp_path, tiny):
    class Other(pl.LightningModule):
        policy = tokenizer = None
        training_step = validation_step = configure_optimizers = lambda self, *_: None

    with pytest.raises(UserError, match=r"^model: Other is no module that .* Derive it from lit_sdpo.RolloutModule"):
        fit(tmp_path, Other(), toy_data())


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_sampling_is_scored_in_float32_at_any_precision(tmp_path, tiny, precision):
    watch = Watch()
    fit(tmp_path, method("grpo", tiny), toy_data(), watch, precision=precision, limit_val_batches=1.0)
    assert {entry["split"] for entry in watch.seen} == {"train", "validation"}
    assert all(entry["rollouts"].completions.logprobs.dtype == torch.float32 for entry in watch.seen)
    assert all(entry["rollouts"].rewards.dtype == torch.float32 for entry in watch.seen)


def test_rollouts_do_not_outlive_a_run(tmp_path, tiny):
    callback = rollout_callback()
    fit(tmp_path, method("grpo", tiny), toy_data(), rollout=callback)
    batch = next(iter(toy_data(steps=2, updates_per_rollout=2).train_dataloader()))
    batch.update = 1
    made = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    module = method("grpo", tiny)
    callback.setup(made, module, "fit")
    with pytest.raises(UserError, match="ckpt_path"):
        callback.on_train_batch_start(made, module, batch, 0)


def test_generations_are_counted_from_one():
    with pytest.raises(ValueError, match="num_generations"):
        RolloutCallback(num_generations=0)
