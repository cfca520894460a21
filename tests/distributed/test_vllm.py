"""A pair of processes asks one server: the first sends the weights, both draw for their own prompts."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import Lora
from lit_sdpo.policies.sharding import whole
from lit_sdpo.rollouts.engines.vllm import VLLMEngine
from tests.distributed.processes import in_two_processes
from tests.rollouts.vllm_server import FakeServer
from tests.training import assert_close_gradients, fit, method, rollout_callback, toy_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture
def server(tiny):
    made = FakeServer(tiny)
    yield made
    made.stop()


def state(module):
    return {name: whole(tensor).detach().clone() for name, tensor in module.state_dict().items()}


def moved(folder, server, model, lora, overlap=False, **options):
    module = method("grpo", model, lora=Lora(rank=4) if lora else None)
    module.configure_model()
    before = state(module)
    rollout = rollout_callback(engine=VLLMEngine(server.url, timeout=60.0, patience=0.5), overlap=overlap)
    fit(folder, module, toy_data(steps=2), rollout=rollout, limit_val_batches=1.0, **options)
    after = state(module)
    return {name: before[name] - after[name] for name in before}


def divided():
    return {"strategy": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), "devices": 2}


# Updates: a rehearsal, two steps, an evaluation. With overlap the first step's weights draw for both steps.
@pytest.mark.parametrize(
    ("options", "lora", "overlap", "updates"),
    [
        (lambda: {"strategy": "ddp", "devices": 2}, False, False, 4),
        (divided, False, True, 3),
        (divided, True, False, 4),
    ],
)
def test_two_processes_take_the_steps_of_one(server, tiny, tmp_path, options, lora, overlap, updates):
    torch.manual_seed(0)
    alone = moved(tmp_path, server, tiny, lora, overlap)
    server.start_again()
    server.requests.clear()

    def both():
        torch.manual_seed(0)
        return moved(tmp_path, server, tiny, lora, overlap, **options())

    assert_close_gradients(in_two_processes(tmp_path / "pair", both), alone, rtol=1e-3)
    assert server.requests.count("/pause") == updates


def test_both_processes_learn_why_the_first_one_ends(server, tiny, tmp_path):
    server.extension = False

    def both():
        with pytest.raises(UserError, match="--worker-extension-cls"):
            moved(tmp_path, server, tiny, False, strategy="ddp", devices=2)

    in_two_processes(tmp_path / "pair", both, timeout=60)
