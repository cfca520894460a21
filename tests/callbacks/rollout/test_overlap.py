from __future__ import annotations

import copy
import threading

import lightning.pytorch as pl
import pytest
import torch

from lit_sdpo.errors import UserError
from lit_sdpo.modules.objective import Slice, Tokens
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.engines.vllm import VLLMEngine
from lit_sdpo.rollouts.mismatch import Mismatch
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.types import LossBatch, Sampling
from tests.rollouts.vllm_server import FakeServer
from tests.training import (
    Toy,
    Watch,
    assert_close_gradients,
    fit,
    lively,
    method,
    rollout_callback,
    row_logits,
    toy_data,
)

PATIENCE = 20.0  # seconds before a test that waits in vain fails


def seeds_of(stage, step):
    """What the requests of a step carry."""
    seeds = sample_seeds(5, "train", stage, step, item_ids=["0", "1", "2"], num_generations=4)
    return {seed & (2**62 - 1) for seed in seeds[::4].tolist()}


class WatchedServer(FakeServer):
    """Tells which seeds it was asked for, and answers only those that are not held back."""

    def __init__(self, folder):
        self.arrived, self.change = set(), threading.Condition()
        self.held, self.refused = set(), set()
        super().__init__(folder)

    def complete(self, body):
        seed = body.get("seed")
        with self.change:
            self.arrived.add(seed)
            self.change.notify_all()
            assert self.change.wait_for(lambda: seed not in self.held, PATIENCE)
        return super().complete(body)

    def answer(self, path, body):
        if path == "/v1/completions" and body.get("seed") in self.refused:
            return 400, {"error": "not this one"}
        return super().answer(path, body)

    def hold(self, seeds):
        with self.change:
            self.held = set(seeds)
            self.change.notify_all()

    def wait_for(self, seeds):
        with self.change:
            return self.change.wait_for(lambda: seeds <= self.arrived, PATIENCE)


@pytest.fixture
def server(tiny):
    made = WatchedServer(tiny)
    yield made
    made.hold(())
    made.stop()


class Steps(pl.Callback):
    """Keeps the weights before each step and what was logged in it."""

    def __init__(self):
        self.models, self.logged = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.models.append(copy.deepcopy(pl_module.policy))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.logged.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def values(self, name):
        return [logged.get(name) for logged in self.logged]


class HeldBack(pl.Callback):
    """The server answers the next step's requests only when this step is over, and this step waits until they come."""

    def __init__(self, server, steps):
        self.server, self.steps, self.overlapped = server, steps, []

    def _next(self, trainer):
        stage, step = trainer.current_epoch, trainer.global_step % self.steps
        return seeds_of(stage, step + 1) if step + 1 < self.steps else set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        # Before the rollout callback asks.
        self.server.hold(self._next(trainer))

    def on_after_backward(self, trainer, pl_module):
        if coming := self._next(trainer):
            self.overlapped.append(self.server.wait_for(coming))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.server.hold(())


class Saved(pl.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def overlapping(server, **options):
    engine = VLLMEngine(server.url, timeout=PATIENCE, patience=0.3)
    return rollout_callback(**({"engine": engine, "overlap": True, "rewards": lively()} | options))


def own_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vllm")]


def drawn(watch):
    return [(entry["stage"], entry["step"], entry["rollouts"].seeds.tolist()) for entry in watch.of("train")]


def test_the_next_steps_completions_are_drawn_while_a_step_is_taken(server, tiny, tmp_path):
    watch, steps, held = Watch(), Steps(), HeldBack(server, steps=3)
    replaying, options = {"replay_coefficient": 0.1}, {"steps": 3, "replay_share": 0.3}
    short = Sampling(max_new_tokens=3)
    rollout, saved = overlapping(server, sampling=short), Saved(tmp_path / "mid.ckpt", 1)
    evaluation = {"probes": [Toy("probe")], "evaluate_trained": False, "eval_every": 1, "eval_prompts": 1}
    data = toy_data(tasks=("a", "b"), **options, **evaluation)
    module = method("grpo", tiny, **replaying)
    fit(tmp_path, module, data, rollout, watch, steps, saved, rollout=held, limit_val_batches=1.0)
    assert held.overlapped == [True] * 4  # none is asked for across the end of a stage
    assert steps.values("rollout/staleness") == [0, 1, 1, 0, 1, 1]
    assert len(watch.of("validation")) == 6
    assert own_threads() == []
    assert not torch.equal(steps.models[1].lm_head.weight, steps.models[2].lm_head.weight)

    # Every completion comes from the weights that the log claims, evaluations in between or not.
    for number, entry in enumerate(watch.of("train")):
        rollouts, age = entry["rollouts"], int(steps.logged[number]["rollout/staleness"])
        for row in (0, len(rollouts) - 1):
            ids = rollouts.completions.ids[row, : rollouts.completions.lengths[row]].tolist()
            logits = row_logits(steps.models[number - age], rollouts.prompt_ids[row // 4], ids)
            found = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
            torch.testing.assert_close(
                rollouts.completions.logprobs[row, : len(ids)].double(), found, atol=1e-4, rtol=0
            )

    # The first step of a resumed run has nothing to collect; what is asked for stays the same.
    again, after = Watch(), Steps()
    data = toy_data(tasks=("a", "b"), **options)
    module, rollout = method("grpo", tiny, **replaying), overlapping(server, sampling=short)
    fit(tmp_path, module, data, again, after, rollout=rollout, ckpt_path=saved.path, max_epochs=1)
    assert after.values("rollout/staleness") == [0, 1]
    assert drawn(again) == drawn(watch)[1:3]
    assert [len(seeds) for _, _, seeds in drawn(watch)] == [12] * 3 + [16] * 3  # with a prompt of the first task


@pytest.mark.parametrize("correction", ["weight", "ratio"])
def test_the_step_in_between_is_corrected(server, tiny, tmp_path, correction):
    watch, steps, lr = Watch(), Steps(), 0.5
    module = method("grpo", tiny)
    fit(tmp_path, module, toy_data(steps=2), watch, steps, rollout=overlapping(server, correction=correction))
    old, new = steps.models
    rollouts = watch.of("train")[1]["rollouts"]
    advantages = (rollouts.rewards.view(3, 4) - rollouts.rewards.view(3, 4).mean(1, keepdim=True)).flatten()
    total, ratios = 0.0, []
    for row, length in enumerate(rollouts.completions.lengths.tolist()):
        ids = rollouts.completions.ids[row, :length].tolist()
        before, now = (
            row_logits(model, rollouts.prompt_ids[row // 4], ids).log_softmax(-1).gather(-1, torch.tensor([ids]).T)
            for model in (old, new)
        )
        ratio = (now - before.detach()).exp()
        ratios.append(ratio.detach())
        ratio = ratio * (2 / ratio.detach()).clamp(max=1)  # truncated importance sampling
        if correction == "weight":  # which has the same gradient, and no clip
            total = total - (ratio * advantages[row]).sum()
        else:
            total = total - torch.minimum(ratio * advantages[row], ratio.clamp(0.8, 1.28) * advantages[row]).sum()
    loss = total / rollouts.completions.lengths.sum()
    loss.backward()
    expected = {name: p.grad.double() for name, p in new.named_parameters()}
    found = {
        name: (p.detach() - after.detach()).double() / lr
        for (name, p), after in zip(new.named_parameters(), module.policy.parameters(), strict=True)
    }
    assert torch.cat(ratios).min() < 0.5  # it matters
    assert torch.cat(ratios).max() > 2  # and so does the cap
    assert_close_gradients(found, expected, rtol=2e-3)
    assert steps.logged[1]["train/loss"] == pytest.approx(float(loss.detach()), rel=1e-3)
    # What is logged is about the same tokens: rows of flat groups have no forward pass.
    trained = torch.cat([ratio for ratio, advantage in zip(ratios, advantages, strict=True) if advantage != 0])
    logs = trained.log().abs()
    assert steps.logged[0]["rollout/mismatch/max"] < 1e-4
    assert steps.logged[1]["rollout/mismatch/weight"] == pytest.approx(float(trained.clamp(max=2).mean()), rel=1e-3)
    assert steps.logged[1]["rollout/mismatch/max"] == pytest.approx(float(logs.max()), rel=1e-3)
    assert steps.logged[1]["rollout/mismatch/mean"] == pytest.approx(float(logs.mean()), rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("grpo", {"engine": NativeEngine()}, r"rollout\.overlap: NativeEngine .*VLLMEngine"),
        (
            "grpo",
            {"engine": VLLMEngine("http://127.0.0.1:1", sleep_level=1)},
            r"rollout\.overlap: .*sleep_level to null",
        ),
        ("grpo", {"resample_rounds": 1}, r"rollout\.overlap: .*resample_rounds to 0"),
        ("sft", {}, r"rollout\.overlap: .* reference answers"),
    ],
)
def test_what_cannot_be_asked_ahead_is_refused(server, tiny, tmp_path, kind, options, reason):
    with pytest.raises(UserError, match=reason):
        fit(tmp_path, method(kind, tiny), toy_data(), rollout=overlapping(server, **options))


def test_a_failure_in_the_thread_is_the_engines_own(server, tiny, tmp_path):
    server.refused = seeds_of(0, 1)
    with pytest.raises(UserError, match=r"status 400.*not this one"):
        fit(tmp_path, method("grpo", tiny), toy_data(steps=2), rollout=overlapping(server))
    assert own_threads() == []


class Interruption(pl.Callback):
    def __init__(self, server):
        self.server = server

    def on_after_backward(self, trainer, pl_module):
        assert self.server.wait_for(seeds_of(0, 1))
        raise SystemExit("now")


def test_a_run_that_ends_does_not_wait_for_the_server(server, tiny, tmp_path):
    server.hold(seeds_of(0, 1))
    with pytest.raises(SystemExit):
        fit(tmp_path, method("grpo", tiny), toy_data(steps=2), Interruption(server), rollout=overlapping(server))
    assert server.held  # the server has not answered yet
    assert own_threads() == []


def test_weights_of_single_tokens_are_bounded():
    logprobs = torch.tensor([-1.0, -1.0, -1.0])
    sampled = torch.tensor([[-1.0, -1.5, -4.0]])
    mask = torch.ones_like(sampled, dtype=torch.bool)
    ids = torch.zeros_like(sampled, dtype=torch.long)
    bounded, ones = torch.tensor([1.0, 2.718281828**0.5, 2.0]), torch.ones(3)
    for correction in ("weight", "ratio"):
        mismatch = Mismatch(torch.device("cpu"), correction=correction)
        batch = LossBatch([[1]], ids, mask, sampled.clone(), sampled_logprobs=sampled, mismatch=mismatch)
        batch.engine_weights = torch.ones_like(sampled)
        for update in range(2):  # the second sees what the first has kept
            batch.fresh = update == 0
            tokens = Tokens(Slice(None, batch), slice(0, 3), torch.zeros(3, 4))
            tokens.logprobs = logprobs
            tokens.meet_first()
            ratio = (logprobs - tokens.old_logprobs).exp()
            torch.testing.assert_close(ratio, ones if correction == "weight" else bounded)
            torch.testing.assert_close(tokens.engine_weights, bounded if correction == "weight" else ones)
            unbounded = torch.tensor([1.0, 2.718281828**0.5, 5.0])
            torch.testing.assert_close(tokens.importance(5.0), bounded if correction == "weight" else unbounded)
        assert mismatch.sums.tolist() == pytest.approx([3.5, float(bounded.sum()), 3, 0])
        assert mismatch.largest == 3
