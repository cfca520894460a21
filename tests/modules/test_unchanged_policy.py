"""At a learning rate of 0 a second update has the gradient of the first, whatever drew the completions and how."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from lit_sdpo.modules import SRPO
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rollouts.engines.base import RolloutEngine, Sampling
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.engines.vllm import VLLMEngine
from lit_sdpo.rollouts.mismatch import Mismatch
from lit_sdpo.rollouts.reprompt import Reprompt
from tests.rollouts.vllm_server import FakeServer
from tests.training import Watch, fit, method, rollout_callback, sgd, toy_data

FILTERS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.9},
    {"min_p": 0.1},
    {"temperature": 1.5, "top_p": 0.5},
    {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.05},
    {"top_p": 0.7, "min_p": 0.2},  # what top_p leaves depends on which comes first
]
CERTAIN = [{"top_k": 1}, {"temperature": 0.0}]
MIXED = {"temperature": 1.3, "top_p": 0.8, "min_p": 0.05}


class Gradients(pl.Callback):
    """The gradient of each update, as one vector, and what was logged."""

    def __init__(self):
        self.found, self.logged = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [p.grad.flatten() for p in pl_module.policy.parameters() if p.grad is not None]
        self.found.append(torch.cat(gradients).double())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def still(parameters):
    return sgd(parameters, lr=0.0)


def made(kind, model, **options):
    if kind == "srpo":
        return SRPO(model, reprompt=Reprompt(allow_truncated=True), optimizer=still, scheduler=None, **options)
    return method(kind, model, optimizer=still, **options)


def by_place(prompts, completions, completion_ids, **columns):
    """Rewards of 0 and 1 in every group, also where all its completions are the same."""
    return [float(n % 2) for n, _ in enumerate(completions)]


def updates(
    tmp_path,
    kind,
    model,
    filters,
    *callbacks,
    count=2,
    slots=1,
    engine=None,
    correction="weight",
    log_every=1,
    precision="32-true",
    **options,
):
    """Gradients and logs of the updates of one window at a learning rate of 0."""
    gradients = Gradients()
    rollout = rollout_callback(
        sampling=Sampling(max_new_tokens=6, **filters),
        rewards=WeightedRewards({"place": by_place}, {"verifier": 0.0}),
        engine=engine,
        correction=correction,
    )
    data = toy_data(updates_per_rollout=count, steps=count)
    settings = {"accumulate_grad_batches": slots, "log_every_n_steps": log_every, "precision": precision}
    fit(tmp_path, made(kind, model, **options), data, gradients, *callbacks, rollout=rollout, **settings)
    return gradients


def assert_still(gradients, count=2):
    """Returns the norm of the gradient."""
    assert len(gradients.found) == count
    first = gradients.found[0]
    for other in gradients.found[1:]:
        # Completions that are all the same leave a gradient of rounding alone: advantages sum to 0.
        assert (other - first).norm() <= 1e-5 * max(float(first.norm()), 0.1)
    return float(first.norm())


@pytest.fixture
def server(tiny):
    made = FakeServer(tiny)
    yield made
    made.stop()


def engine_of(server):
    return VLLMEngine(server.url, timeout=20.0, patience=0.3)


NATIVE = [
    *((kind, filters) for kind in ("grpo", "sdpo", "srpo") for filters in FILTERS),
    *((kind, MIXED) for kind in ("gspo", "cispo")),
]


@pytest.mark.parametrize(("kind", "filters"), NATIVE, ids=str)
def test_with_the_native_engine(tiny, tmp_path, kind, filters):
    gradients = updates(tmp_path, kind, tiny, filters)
    assert assert_still(gradients) > 0.01
    if kind in ("grpo", "gspo", "cispo"):
        assert gradients.logged[1]["train/clip_fraction"] == 0


@pytest.mark.parametrize("kind", ["grpo", "sdpo", "srpo"])
def test_in_low_precision(tiny, tmp_path, kind):
    """The sampler rounds in other places than an update; ratios are between updates."""
    gradients = updates(tmp_path, kind, tiny, MIXED, precision="bf16-mixed", count=3, slots=2)
    assert assert_still(gradients, 3) > 0.01


@pytest.mark.parametrize("filters", CERTAIN, ids=str)
def test_completions_that_are_all_the_same(server, tiny, tmp_path, filters):
    """A ratio off 1 would be clipped on one side only, and leave a gradient where there is none."""
    for engine in (None, engine_of(server)):
        gradients = updates(tmp_path, "grpo", tiny, filters, engine=engine)
        assert assert_still(gradients) < 1e-6


SERVED = [*((kind, filters) for kind in ("grpo", "sdpo") for filters in FILTERS), ("srpo", MIXED)]


@pytest.mark.parametrize(("kind", "filters"), SERVED, ids=str)
def test_with_a_server(server, tiny, tmp_path, kind, filters):
    gradients = updates(tmp_path, kind, tiny, filters, engine=engine_of(server))
    assert assert_still(gradients) > 0.01
    first, second = gradients.logged
    assert first["rollout/mismatch/max"] < 1e-4  # also where min_p comes before top_p
    assert first["rollout/mismatch/weight"] == pytest.approx(1, abs=1e-5)
    assert first.get("rollout/mismatch/outside", 0) == 0
    if kind == "grpo":
        assert second["train/clip_fraction"] == 0
    else:
        assert second["sdpo/importance_weight"] == pytest.approx(1, abs=1e-5)


def test_what_the_first_update_has_found_is_logged_in_any(server, tiny, tmp_path):
    found = updates(tmp_path, "grpo", tiny, {}, engine=engine_of(server), log_every=2).logged
    assert "rollout/mismatch/mean" not in found[0]
    assert 0 < found[1]["rollout/mismatch/mean"] < 1e-4


@pytest.mark.parametrize("correction", ["weight", "ratio"])
@pytest.mark.parametrize("kind", ["grpo", "sdpo", "gspo", "cispo"])
def test_three_updates_in_slices(server, tiny, tmp_path, kind, correction):
    options = {"count": 3, "slots": 2, "correction": correction}
    assert assert_still(updates(tmp_path, kind, tiny, MIXED, engine=engine_of(server), **options), 3) > 0.01


class Recorded(RolloutEngine):
    """Answers with what another engine has drawn, as if the policy had."""

    mismatched = False

    def __init__(self, completions):
        self.completions = completions

    def generate(self, policy, prompts, **call):
        self.completions.log_kept_mass = torch.zeros_like(self.completions.logprobs)  # a first update does not look
        return self.completions


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_a_servers_first_update_is_the_native_one_but_for_the_weights(server, tiny, tmp_path, kind, monkeypatch):
    watch, compare = Watch(), Mismatch.compare

    def unweighted(self, *tokens):
        found = compare(self, *tokens)
        return found._replace(weights=torch.ones_like(found.weights))

    monkeypatch.setattr(Mismatch, "compare", unweighted)
    theirs = updates(tmp_path, kind, tiny, MIXED, watch, engine=engine_of(server))
    drawn = watch.of("train")[0]["rollouts"].completions
    own = updates(tmp_path, kind, tiny, MIXED, engine=Recorded(drawn))
    assert (theirs.found[0] - own.found[0]).norm() <= 1e-5 * own.found[0].norm()
    assert own.found[0].norm() > 0.01


class Untrue(VLLMEngine):
    """A server that reports other probabilities than it drew with, the true ones divided by a factor."""

    factor = 1.0

    def generate(self, *arguments, **options):
        drawn = super().generate(*arguments, **options)
        drawn.logprobs = drawn.logprobs - torch.tensor(self.factor).log()
        return drawn


@pytest.mark.parametrize(("factor", "weight"), [(1.1, 1.1), (3.0, 2.0)])
@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_the_engines_weight_is_capped_and_stays_in_later_updates(server, tiny, tmp_path, kind, factor, weight):
    plain = updates(tmp_path, kind, tiny, {}, engine=engine_of(server))
    engine = Untrue(server.url, timeout=20.0, patience=0.3)
    engine.factor = factor
    moved = updates(tmp_path, kind, tiny, {}, engine=engine)
    assert_still(moved)
    assert (moved.found[0] - weight * plain.found[0]).norm() <= 1e-4 * plain.found[0].norm()


class Careless(RolloutEngine):
    """Draws from everything, whatever it is asked for."""

    def generate(self, policy, prompts, *, sampling, **call):
        return NativeEngine().generate(
            policy, prompts, sampling=Sampling(max_new_tokens=sampling.max_new_tokens), **call
        )


def test_a_token_that_the_policys_filter_drops_weighs_nothing(tiny, tmp_path):
    gradients = updates(tmp_path, "grpo", tiny, {"top_k": 40}, engine=Careless())
    assert_still(gradients)
    first = gradients.logged[0]
    assert 0.01 < first["rollout/mismatch/outside"] < 0.99
    assert 0 < first["rollout/mismatch/max"] < 10  # of the others
    assert first["rollout/mismatch/weight"] < 1.5
