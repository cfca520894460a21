"""A server that sleeps while updates run: who has the memory when, and with which weights."""

from __future__ import annotations

from itertools import groupby

import lightning.pytorch as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_sdpo.errors import UserError
from lit_sdpo.rollouts.engines.vllm import VLLMEngine
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.types import Sampling
from tests.rollouts.vllm_server import FakeServer
from tests.training import fit, method, rollout_callback, toy_data

BOTH = {"weights", "kv_cache"}


class SleepyServer(FakeServer):
    """Keeps in order what matters here; a draw or a load without memory is an error of its own."""

    def __init__(self, folder, **options):
        self.events = []
        super().__init__(folder, **({"sleep_mode": True} | options))

    def answer(self, path, body):
        name = body["method"].removeprefix("lit_sdpo_") if path == "/collective_rpc" else path
        shown = {"/v1/completions": "draw", "/wake_up?tags=weights": "weights", "/wake_up?tags=kv_cache": "cache"}
        if (name := shown.get(name, name)) in {*shown.values(), "load", "forget", "/sleep?level=1", "/sleep?level=2"}:
            self.events.append(name)
        return super().answer(path, body)

    def order(self):
        """What happened since the last call, repetitions once."""
        events = [name for name, _ in groupby(self.events)]
        self.events.clear()
        return " ".join(events)


@pytest.fixture
def server(tiny):
    made = SleepyServer(tiny)
    yield made
    made.stop()


def engine_of(server, level):
    return VLLMEngine(server.url, timeout=20.0, patience=0.3, sleep_level=level)


def generate(engine, policy):
    return engine.generate(
        policy,
        [[5, 9, 11]],
        num_generations=2,
        sampling=Sampling(max_new_tokens=4),
        seeds=sample_seeds(0, item_ids=["0"], num_generations=2),
        end_ids=[3],
        pad_id=2,
    )


def short(engine):
    return rollout_callback(engine=engine, num_generations=2, sampling=Sampling(max_new_tokens=2))


class During(pl.Callback):
    """Looks at the server while an update runs, and does something to it then."""

    def __init__(self, server, action=lambda: None):
        self.server, self.action, self.asleep = server, action, []

    def on_after_backward(self, trainer, pl_module):
        self.asleep.append(set(self.server.worker.asleep))
        self.action()


@pytest.mark.parametrize(
    ("level", "sleep", "end"),
    [(1, "/sleep?level=1", "weights cache"), (2, "forget /sleep?level=2", "weights load cache")],
)
def test_the_server_sleeps_during_updates_alone(server, tiny, tmp_path, level, sleep, end):
    during, rollout = During(server), short(engine_of(server, level))
    fit(tmp_path, method("grpo", tiny), toy_data(steps=2), during, rollout=rollout, limit_val_batches=1.0)
    assert during.asleep == [BOTH, BOTH]
    turn = f"weights load cache draw {sleep}"
    # The first step (with a rehearsal), the second, the evaluation, the end.
    assert server.order() == f"load draw load draw {sleep} {turn} {turn} {end}"
    assert not server.worker.asleep
    assert not server.paused
    assert server.worker.lit_sdpo_weights == rollout.engine.synchroniser.version
    assert all(parameter.isfinite().all() for parameter in server.worker.model.parameters())


def test_weights_that_were_given_up_are_sent_again_and_kept_ones_are_not(server, tiny):
    policy = AutoModelForCausalLM.from_pretrained(tiny).eval()
    drawn, again = {}, {1: "weights cache draw /sleep?level=1", 2: "weights load cache draw forget /sleep?level=2"}
    for level in again:
        engine = engine_of(server, level)
        generate(engine, policy)
        server.order()
        drawn[level] = generate(engine, policy)
        assert server.order() == again[level]
    assert torch.equal(drawn[1].ids, drawn[2].ids)


@pytest.mark.parametrize("level", [None, 2])
def test_a_server_that_a_killed_run_left_asleep_is_woken(server, tiny, level):
    policy = AutoModelForCausalLM.from_pretrained(tiny).eval()
    killed = engine_of(server, 2)
    generate(killed, policy)
    assert server.worker.asleep == BOTH
    server.order()
    generate(engine_of(server, level), policy)
    assert server.order().startswith("weights load cache draw load draw")
    assert server.worker.asleep == (BOTH if level else set())


def test_a_run_that_fails_leaves_the_server_awake_with_its_last_weights(server, tiny, tmp_path):
    def failure():
        raise SystemExit("now")

    rollout = short(engine_of(server, 2))
    with pytest.raises(SystemExit):
        fit(tmp_path, method("grpo", tiny), toy_data(), During(server, failure), rollout=rollout)
    assert server.order().endswith("forget /sleep?level=2 weights load cache")
    assert not server.worker.asleep
    assert server.worker.lit_sdpo_weights == rollout.engine.synchroniser.version is not None


def test_a_server_that_is_gone_at_the_end_does_not_hide_why(server, tiny, tmp_path, caplog):
    def failure():
        server.stop()
        raise RuntimeError("the reason")

    rollout = short(engine_of(server, 1))
    with pytest.raises(RuntimeError, match="the reason"):
        fit(tmp_path, method("grpo", tiny), toy_data(), During(server, failure), rollout=rollout)
    assert "left asleep" in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sleep_mode": False}, "was started without sleep mode.*--enable-sleep-mode"),
        ({"sleep_paths": False}, "has no /is_sleeping.*VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_a_server_that_cannot_sleep_is_refused_before_it_draws(tiny, options, reason):
    server = SleepyServer(tiny, **options)
    with pytest.raises(UserError, match=reason):
        generate(engine_of(server, 1), AutoModelForCausalLM.from_pretrained(tiny).eval())
    assert server.order() == ""
    server.stop()


def test_levels_are_checked():
    with pytest.raises(ValueError, match="sleep_level has to be a whole number from 1 to 2, or null"):
        VLLMEngine(sleep_level=0)
