"""Compiled parts of layers give what the plain ones give. Graphs are traced but not translated: that takes a minute."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torch._inductor import cpp_builder, exc

from lit_sdpo.errors import UserError
from lit_sdpo.policies import compiling
from lit_sdpo.policies.activations import Shape, moments
from lit_sdpo.policies.load import Lora, load_policy
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import completion_hidden
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.types import Sampling
from tests.training import method

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["frames"]["total"]
    torch._dynamo.reset()


def rows(count, longest):
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(3, 30, (count, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    return Sequences(
        [[3 + n % 4, *range(4, 9 + n)] for n in range(count)], ids, torch.arange(longest) < lengths[:, None]
    )


def learned(policy, sequences):
    policy.zero_grad()
    hidden = completion_hidden(policy, sequences)
    hidden.square().mean().backward()
    return hidden.detach(), [p.grad for p in policy.parameters() if p.grad is not None]


@pytest.mark.slow
# Raised inside torch.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_layers_learn_what_plain_ones_do(tiny, traced):
    options = {"gradient_checkpointing": True, "lora": Lora(rank=2)}
    plain, policy = (load_policy(tiny, compile=on, **options).requires_grad_() for on in (False, True))
    assert list(policy.state_dict()) == list(plain.state_dict())
    policy.load_state_dict(plain.state_dict())  # adapters begin at random

    frames = []
    for shape in ((4, 10), (7, 23), (2, 5)):
        (expected, gradients), (found, found_gradients) = (learned(p, rows(*shape)) for p in (plain, policy))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found_gradients, gradients, rtol=1e-5, atol=1e-6)
        frames.append(traced())
    assert 0 < frames[0] <= 8
    assert frames == frames[:1] * 3  # all layers and all lengths share them

    drawn = [
        NativeEngine().generate(
            p.eval(), [[5, 6, 7], [8]], num_generations=2, sampling=Sampling(max_new_tokens=5), seeds=torch.arange(4),
            end_ids=[3], pad_id=3,
        ).ids
        for p in (plain, policy)
    ]  # fmt: skip
    assert torch.equal(*drawn)
    assert moments(policy.train(), Shape(5, 6)) == moments(plain.train(), Shape(5, 6))
    assert traced() == frames[0]  # neither compiles anything

    teacher, other = copy.deepcopy(policy).eval(), copy.deepcopy(plain).eval()
    with torch.no_grad():
        for weight in [*teacher.parameters(), *other.parameters()]:
            weight.mul_(0.5)
        expected = completion_hidden(other, rows(3, 8))
        torch.testing.assert_close(completion_hidden(teacher, rows(3, 8)), expected, rtol=1e-5, atol=1e-6)
    assert frames[0] < traced() <= 2 * frames[0] + 1


@pytest.mark.parametrize("lacks", ["compiler", "headers"])
def test_what_compiling_needs_is_looked_for_before_training(tiny, monkeypatch, tmp_path, lacks):
    def none():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none if lacks == "compiler" else lambda: "g++")
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path))
    module = method("grpo", tiny, compile=True)
    with pytest.raises(UserError, match=r"g\+\+" if lacks == "compiler" else r"Python\.h") as caught:
        module.configure_model()
    assert caught.value.where == "model.compile"
