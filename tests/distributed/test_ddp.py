"""C11: two processes take the same steps as one. SGD: adaptive optimizers amplify rounding."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import pytest
import torch

from lit_sdpo.callbacks import AveragedPolicy, InitialEvaluation, LikelihoodEvaluation, StageCheckpoint, StageMerge
from lit_sdpo.checkpoints.manifest import in_order
from lit_sdpo.checkpoints.schema import KEY
from lit_sdpo.data.mixture import Mixture, Share
from lit_sdpo.likelihood.tasks import TextLikelihood
from lit_sdpo.rewards.base import Verdict
from tests.faults.runs import assert_same, model, stream, train
from tests.modules.test_remedies import REMEDIES
from tests.training import (
    Toy,
    assert_close_gradients,
    fit,
    lively,
    method,
    rollout_callback,
    toy_data,
    trainer,
    weights,
)

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


class Uneven(Toy):
    """One evaluation prompt for two processes."""

    def rows(self, split):
        return super().rows(split)[: 1 if split == "validation" else None]


def moved(tmp_path, tiny, kind, data, *, advantage=None, **options):
    module = method(kind, tiny, **({} if advantage is None else {"advantage": advantage}))
    module.configure_model()
    before = weights(module)
    rollout = rollout_callback()
    made = fit(tmp_path, module, data, InitialEvaluation(), rollout=rollout, limit_val_batches=1.0, **options)
    after = weights(module)
    logged = {name: float(value) for name, value in made.callback_metrics.items()}
    return {name: before[name] - after[name] for name in before}, logged


@pytest.mark.parametrize("kind", ["grpo", "sdpo", "sft"])
def test_c11_two_processes_take_the_steps_of_one(tmp_path, tiny, kind):
    """3 prompts are no even number, in training and evaluation, and neither are the rows of 2 slots."""

    def data():
        return toy_data([Toy("a"), Uneven("b")], steps=2, eval_prompts=3)

    alone, expected = moved(tmp_path, tiny, kind, data(), accumulate_grad_batches=2)
    shared, logged = moved(tmp_path, tiny, kind, data(), accumulate_grad_batches=2, strategy="ddp_fork", devices=2)
    assert_close_gradients(shared, alone, rtol=1e-3)
    names = [name for name in expected if not name.startswith("time/") and "tokens_per_second" not in name]
    exact = [name for name in names if name.startswith(("val/", "rollout/", "train/loss"))]
    assert len(exact) > 8
    assert {n: logged[n] for n in exact} == pytest.approx({n: expected[n] for n in exact}, rel=1e-3, abs=1e-5)


def test_c11_rewards_of_all_ranks_normalise_advantages(tmp_path, tiny):
    def data():
        return toy_data(steps=1, prompts=3)

    alone, _ = moved(tmp_path, tiny, "grpo", data(), advantage="batch_std")
    shared, _ = moved(tmp_path, tiny, "grpo", data(), advantage="batch_std", strategy="ddp_fork", devices=2)
    assert_close_gradients(shared, alone, rtol=1e-3)


def test_two_processes_take_the_steps_of_one_in_a_mixture(tmp_path, tiny):
    def data():
        shares = [Share(task=Toy("a"), share=0.6), Share(task=Uneven("b"), share=0.4)]
        return toy_data([Mixture(shares)], steps=2, eval_prompts=3)

    alone, expected = moved(tmp_path, tiny, "grpo", data())
    shared, logged = moved(tmp_path, tiny, "grpo", data(), strategy="ddp_fork", devices=2)
    assert_close_gradients(shared, alone, rtol=1e-3)
    exact = [name for name in expected if name.startswith(("val/", "rollout/")) and "tokens_per_second" not in name]
    assert {"rollout/a/reward", "rollout/b/reward"} <= set(exact)
    assert {n: logged[n] for n in exact} == pytest.approx({n: expected[n] for n in exact}, rel=1e-3, abs=1e-5)


def test_two_processes_score_texts_as_one(tmp_path, tiny):
    """3 texts for two processes; nothing else is evaluated."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": "add 1 to " * n}) + "\n" for n in (1, 2, 3)))

    def loss(**options):
        data = toy_data(likelihood=[TextLikelihood("texts", str(texts))], evaluate_trained=False)
        callbacks = rollout_callback(), LikelihoodEvaluation()
        made = trainer(tmp_path, data, *callbacks, limit_val_batches=1.0, **options)
        made.validate(method("grpo", tiny), data, verbose=False)
        return float(made.callback_metrics["val/texts/loss"])

    assert loss(strategy="ddp_fork", devices=2) == pytest.approx(loss(), rel=1e-5)


def test_c11_an_idle_window_is_idle_on_all_ranks(tmp_path, tiny):
    data = toy_data([Toy(score=lambda text: 1.0)], steps=2)
    shared, logged = moved(tmp_path, tiny, "grpo", data, strategy="ddp_fork", devices=2)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in shared.values())
    assert logged["rollout/flat_groups"] == 1


class HalfFlat(Toy):
    """Two prompts, one for each process; the rewards of the second are all equal."""

    def rows(self, split):
        return super().rows(split)[:2]

    def verify(self, completion, row):
        return super().verify(completion, row) if row.id.endswith("0") else Verdict(1.0)


def test_c11_one_rank_without_anything_active(tmp_path, tiny):
    def data():
        return toy_data([HalfFlat()], steps=2, prompts=2)

    alone, _ = moved(tmp_path, tiny, "grpo", data())
    shared, logged = moved(tmp_path, tiny, "grpo", data(), strategy="ddp_fork", devices=2)
    assert_close_gradients(shared, alone, rtol=1e-3)
    assert logged["rollout/flat_groups"] == 0.5


def test_c11_a_resumed_pair_ends_as_one_that_was_not_interrupted(tmp_path, tiny):
    """Weights, optimizer, random states of both, matrix and samples, bit for bit."""

    def run(folder, **options):
        train(folder, model(tiny), stream(eval_every=None), strategy="ddp_fork", devices=2, **options)
        last = torch.load(in_order(folder / "checkpoints")[0], weights_only=True)
        files = [(folder / name).read_text() for name in ("matrix.json", "samples.jsonl")]
        return {key: last[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", KEY)} | {"files": files}

    whole = run(tmp_path)
    assert len(whole[KEY]["random"]) == 2
    assert_same(run(tmp_path, ckpt_path=tmp_path / "checkpoints" / "step=5.ckpt"), whole)


class OneAsks(pl.Callback):
    """The second process alone asks for a stop, inside a window of two slices."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.fit_loop.epoch_loop.total_batch_idx == 4:
            trainer.should_stop = True


def test_f25_a_stop_on_one_process_stops_both_and_both_go_on(tmp_path, tiny):
    shared = {"strategy": "ddp_fork", "devices": 2}
    train(tmp_path / "whole", model(tiny), stream(), checkpoint=StageCheckpoint(), **shared)
    train(tmp_path / "two", model(tiny), stream(), OneAsks(), checkpoint=StageCheckpoint(), **shared)
    stopped = tmp_path / "two" / "checkpoints" / "step=3.ckpt"
    assert in_order(stopped.parent) == [stopped]
    train(tmp_path / "two", model(tiny), stream(), checkpoint=StageCheckpoint(), ckpt_path=stopped, **shared)
    ends = [torch.load(in_order(tmp_path / n / "checkpoints")[0], weights_only=True) for n in ("whole", "two")]
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_same(ends[1][name], ends[0][name], name)
    samples = [(tmp_path / n / "samples.jsonl").read_text() for n in ("whole", "two")]
    assert samples[0] == samples[1]


HANDED_ON = {
    "merge": lambda: StageMerge(strength=0.3, rise=0.4),
    "search": lambda: StageMerge(strength=1.0, line_search=[0.4, 0.8]),
    "average": lambda: AveragedPolicy(ema_rate=0.3),
    "bema": lambda: AveragedPolicy(),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_two_processes_hand_on_what_one_does(tmp_path, tiny, name):
    def end(**options):
        module = method("grpo", tiny)
        module.configure_model()
        before, data = weights(module), toy_data(["a", "b"], steps=2, eval_prompts=3)
        rollout = rollout_callback(rewards=lively())
        fit(tmp_path, module, data, HANDED_ON[name](), rollout=rollout, limit_val_batches=1.0, **options)
        return {n: before[n] - after for n, after in weights(module).items()}

    assert_close_gradients(end(strategy="ddp_fork", devices=2), end(accumulate_grad_batches=2), rtol=1e-3)


@pytest.mark.parametrize("name", REMEDIES)
def test_two_processes_take_the_steps_of_one_with_a_remedy(tmp_path, tiny, name):
    kind, options, more = REMEDIES[name]

    def end(**how):
        module, data = method(kind, tiny, **options()), toy_data(["a", "b"], steps=2, prompts=4, **more)
        module.expect(data.stages)
        module.configure_model()
        before = weights(module)
        fit(tmp_path, module, data, **how)
        return {n: before[n] - after for n, after in weights(module).items()}

    assert_close_gradients(end(strategy="ddp_fork", devices=2), end(accumulate_grad_batches=2), rtol=1e-3)
