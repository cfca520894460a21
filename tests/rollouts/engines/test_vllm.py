from __future__ import annotations

import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lit_sdpo.errors import UserError
from lit_sdpo.rollouts.engines.vllm import VLLMEngine
from lit_sdpo.rollouts.engines.vllm.client import Client
from lit_sdpo.rollouts.engines.vllm.server import lit_sdpo_worker
from lit_sdpo.rollouts.engines.vllm.weights import acting_state, fingerprint
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.types import RolloutEngine, Sampling
from tests.rollouts.vllm_server import FakeServer
from tests.training import Watch, fit, method, rollout_callback, step_gradient, toy_data

PROMPTS = [[5, 9, 11, 2, 30], [7], list(range(20, 43))]
END_IDS = [3, 4, 17, 22, 40]
PAD = 2
SAMPLING = Sampling(max_new_tokens=6)


@pytest.fixture
def server(tiny):
    made = FakeServer(tiny)
    yield made
    made.stop()


@pytest.fixture
def policy(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


def engine_of(server, **options):
    return VLLMEngine(server.url, **({"timeout": 20.0, "patience": 0.3} | options))


def generate(engine, policy, sampling=SAMPLING, prompts=PROMPTS, generations=3):
    seeds = sample_seeds(0, item_ids=[str(n) for n in range(len(prompts))], num_generations=generations)
    return engine.generate(
        policy, prompts, num_generations=generations, sampling=sampling, seeds=seeds, end_ids=END_IDS, pad_id=PAD
    )


def change(policy, by=0.1):
    """Change the embedding, which is the head too."""
    with torch.no_grad():
        weight = policy.get_input_embeddings().weight
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * by)


def logprobs_of(policy, prompt, ids, temperature=1.0):
    with torch.no_grad():
        logits = policy(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


def test_completions_are_rows_of_tokens_with_the_policys_log_probabilities(server, policy):
    change(policy)
    engine = engine_of(server)
    assert isinstance(engine, RolloutEngine)
    drawn = generate(engine, policy, Sampling(max_new_tokens=6, temperature=0.7))
    assert drawn.ids.shape == drawn.logprobs.shape == (9, int(drawn.lengths.max()))
    for row in range(9):
        length = int(drawn.lengths[row])
        ids = drawn.ids[row, :length].tolist()
        expected = logprobs_of(policy, PROMPTS[row // 3], ids, 0.7)
        torch.testing.assert_close(drawn.logprobs[row, :length], expected, atol=1e-4, rtol=0)
        assert drawn.finished[row] == (ids[-1] in END_IDS)
        assert not set(ids[:-1]) & set(END_IDS)
        assert (drawn.ids[row, length:] == PAD).all()
        assert (drawn.logprobs[row, length:] == 0).all()
    assert len({tuple(row) for row in drawn.ids.tolist()}) > 3
    again = generate(engine, policy, Sampling(max_new_tokens=6, temperature=0.7))
    assert torch.equal(drawn.ids, again.ids)


def test_requests_say_how_to_sample(server, policy):
    generate(engine_of(server), policy, Sampling(max_new_tokens=5, temperature=0.5, top_k=7, top_p=0.9, min_p=0.01))
    bodies = sorted((body for body in server.bodies if "n" in body), key=lambda body: -len(body["prompt"]))
    assert [body["prompt"] for body in bodies] == [PROMPTS[2], PROMPTS[0], PROMPTS[1]]
    assert {body["seed"] for body in bodies}.isdisjoint({bodies[0]["seed"] + 1, bodies[1]["seed"] + 1})
    wanted = {"n": 3, "max_tokens": 5, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.01, "ignore_eos": True}
    for body in bodies:
        assert wanted.items() <= body.items()
        assert body["stop_token_ids"] == END_IDS
        assert 0 <= body["seed"] < 2**62
    server.bodies.clear()
    generate(engine_of(server, seeded=False), policy)
    assert all("seed" not in body for body in server.bodies)


def test_the_most_likely_completion_is_drawn_once(server, policy):
    drawn = generate(engine_of(server), policy, Sampling(max_new_tokens=4, temperature=0))
    assert {body["n"] for body in server.bodies if "n" in body} == {1}
    assert drawn.ids.shape[0] == 9
    assert torch.equal(drawn.ids[0], drawn.ids[2])


def test_no_prompts_no_rows(server, policy):
    drawn = generate(engine_of(server), policy, prompts=[])
    assert drawn.ids.shape == (0, 0)


def test_weights_are_sent_when_they_differ_and_only_then(server, policy):
    engine = engine_of(server)

    def loads():
        found = server.requests.count("/pause")
        assert found == server.requests.count("/reset_prefix_cache") == server.requests.count("/resume")
        server.requests.clear()
        return found

    generate(engine, policy)
    assert loads() == 2  # a rehearsal and the weights
    generate(engine, policy)
    assert loads() == 0
    change(policy)
    with engine.holding(policy):
        generate(engine, policy)
        generate(engine, policy)
        assert engine.version == fingerprint(policy)
    assert loads() == 1
    server.start_again()
    generate(engine, policy)
    assert loads() == 2
    assert len(list(engine.synchroniser.folder.iterdir())) == 1


def test_order_of_an_update(server, policy):
    with engine_of(server).holding(policy):
        pass
    one = ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume", "/v1/completions"]
    assert server.requests == ["/collective_rpc", *one, *one]


@pytest.mark.parametrize("by", [0.1, 1e-6])
def test_a_head_that_keeps_old_weights_is_found_out_however_small_the_change(tiny, policy, by):
    server = FakeServer(tiny, cure=False)
    change(policy, by)
    with pytest.raises(UserError, match="keeps a part of the old weights"):
        generate(engine_of(server), policy)
    assert not server.paused
    server.stop()


def test_another_servers_weights_while_completions_are_drawn(server, policy):
    engine = engine_of(server)
    with engine.holding(policy):
        server.start_again()
        with pytest.raises(UserError, match="was started again while completions were drawn"):
            generate(engine, policy)
    server.worker.lit_sdpo_weights = "other"
    with pytest.raises(UserError, match="from another run"):
        engine.synchroniser.check()


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"dev_mode": False}, "VLLM_SERVER_DEV_MODE=1"),
        ({"extension": False}, "--worker-extension-cls lit_sdpo_worker.WeightReload and PYTHONPATH=/"),
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ({"max_model_len": 20}, "--max-model-len 29"),
        ({"chunked": True}, "--no-enable-chunked-prefill"),
    ],
)
def test_a_missing_flag_is_named(tiny, policy, options, flag):
    server = FakeServer(tiny, **options)
    with pytest.raises(UserError, match=flag):
        generate(engine_of(server), policy)
    server.stop()


def test_another_model_is_refused(server):
    config = AutoModelForCausalLM.from_pretrained(server.folder).config
    config.vocab_size += 8
    with pytest.raises(UserError, match="tokens, the policy"):
        generate(engine_of(server), AutoModelForCausalLM.from_config(config).eval())


def test_a_folder_that_the_server_does_not_see(server, policy, monkeypatch):
    monkeypatch.setattr(lit_sdpo_worker, "os", SimpleNamespace(path=SimpleNamespace(isdir=lambda path: False)))
    with pytest.raises(UserError, match="weights_folder"):
        generate(engine_of(server), policy)
    assert not server.paused


def test_a_busy_server_is_asked_again(server, policy):
    engine = engine_of(server, patience=5.0)
    with engine.holding(policy):
        server.failures = [503, 503]
        assert len(generate(engine, policy).lengths) == 9


def test_what_the_server_refuses_is_said(server, policy):
    engine = engine_of(server)
    with engine.holding(policy):
        server.failures = [400] * 3
        with pytest.raises(UserError, match=r"status 400.*not now"):
            generate(engine, policy)


def test_a_server_that_is_gone(server, policy):
    engine = engine_of(server)
    generate(engine, policy)
    server.stop()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached.*--ckpt_path last"):
        generate(engine, policy)
    assert time.monotonic() - began < 5


def test_a_server_that_goes_while_it_answers(server, policy):
    engine = engine_of(server)
    with engine.holding(policy):
        server.delay = 0.5
        threading.Timer(0.1, server.http.socket.close).start()
        server.complete = lambda body: 1 / 0  # the connection breaks off
        server.http.handle_error = lambda *arguments: None
        with pytest.raises(UserError, match="cannot be reached"):
            generate(engine, policy)


def test_an_answer_that_breaks_off_leaves_no_connection_open():
    with socket.create_server(("127.0.0.1", 0)) as service:

        def break_off():
            connection, _ = service.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{")
                while connection.recv(1 << 16):
                    pass  # until the client has closed

        thread = threading.Thread(target=break_off, daemon=True)
        thread.start()
        client = Client(f"http://127.0.0.1:{service.getsockname()[1]}", timeout=0.5, patience=0.0)
        with pytest.raises(UserError, match="has not answered") as error:
            client.post("/v1/completions", {})
        thread.join(5.0)
        assert not thread.is_alive(), error  # held here, so nothing was closed by the garbage collector


def test_a_silent_server(server, policy):
    engine = engine_of(server, timeout=0.4)
    with engine.holding(policy):
        server.delay = 3.0
        with pytest.raises(UserError, match=r"not answered /v1/completions within 0\.4 s"):
            generate(engine, policy)


def test_an_interruption_does_not_wait_for_the_server(server, policy):
    engine = engine_of(server, concurrency=2)
    with engine.holding(policy):
        server.delay = 30.0
        pending = threading.Timer(0.2, engine.client.interrupt)
        pending.start()
        began = time.monotonic()
        with pytest.raises(UserError, match="cannot be reached"):
            generate(engine, policy)
        assert time.monotonic() - began < 15


def test_a_url_is_checked():
    with pytest.raises(UserError, match="http://HOST:PORT"):
        Client("localhost:8000", timeout=1.0, patience=1.0)
    with pytest.raises(ValueError, match="concurrency"):
        VLLMEngine(concurrency=0)


def test_fingerprints_follow_every_bit(policy):
    names = {fingerprint(policy)}
    bits = policy.model.norm.weight.data.view(torch.int32)
    bits[3] += 1
    names.add(fingerprint(policy))
    bits[3] -= 1
    names.add(fingerprint(policy.to(torch.bfloat16)))
    assert len(names) == 3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_are_merged_without_touching_the_policy(server, policy):
    adapted = get_peft_model(policy, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    adapted.add_adapter("teacher", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.3)
    before = fingerprint(adapted)
    drawn = generate(engine_of(server), adapted)
    expected = logprobs_of(adapted, PROMPTS[2], drawn.ids[6, : drawn.lengths[6]].tolist())
    torch.testing.assert_close(drawn.logprobs[6, : drawn.lengths[6]], expected, atol=1e-4, rtol=0)
    assert fingerprint(adapted) == before
    with torch.no_grad():
        next(p for name, p in adapted.named_parameters() if ".teacher." in name).add_(1.0)
    assert fingerprint(adapted) == before
    assert acting_state(adapted).keys() <= server.worker.model.state_dict().keys()


def test_vllm_is_never_imported():
    assert "vllm" not in sys.modules


def test_a_run_is_as_on_policy_as_with_the_native_engine(server, tiny, tmp_path):
    watch = Watch()
    engine = engine_of(server)
    rollout = rollout_callback(engine=engine)
    module = method("grpo", tiny)
    fit(tmp_path, module, toy_data(tasks=("a", "b"), steps=2), watch, rollout=rollout, limit_val_batches=1.0)
    assert [entry["split"] for entry in watch.seen].count("train") == 4
    assert engine.synchroniser.difference < 1e-4


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_losses_weigh_by_the_ratio_to_the_servers_log_probabilities(server, tiny, tmp_path, kind):
    """A server that reports half of each token's probability doubles its weight, up to the bound of the method."""

    class Halved(VLLMEngine):
        def generate(self, *arguments, **options):
            drawn = super().generate(*arguments, **options)
            drawn.logprobs -= torch.log(torch.tensor(self.factor))
            return drawn

    gradients = {}
    for factor in (1.0, 1.1):
        Halved.factor = factor
        rollout = rollout_callback(engine=Halved(server.url))
        gradients[factor], _ = step_gradient(tmp_path, kind, tiny, rollout=rollout)
    moved = max(gradients, key=lambda factor: factor)
    for name in gradients[1.0]:
        scale = gradients[1.0][name].abs().max()
        torch.testing.assert_close(gradients[moved][name], 1.1 * gradients[1.0][name], atol=2e-3 * scale, rtol=2e-3)
