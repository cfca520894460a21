from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lit_sdpo.policies.fused_layers import fuse
from lit_sdpo.policies.load import Lora, load_policy
from tests.policies.conftest import MODELS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

#: Norms and gated layers per model: those of its two layers, and the last norm.
FUSED = {
    **{"qwen3": 2 * 5 + 1, "olmo2": 2 * 5 + 1, "olmo3": 2 * 5 + 1},
    **{"llama-tied": 2 * 3 + 1, "mistral": 2 * 3 + 1, "mistral-sliding": 2 * 3 + 1, "granite": 2 * 3 + 1},
    "cohere": 2,
}


def gradients(model, ids):
    model.zero_grad()
    out = model(ids, use_cache=False).logits
    (out.log_softmax(-1)[..., 3] * torch.linspace(-1, 1, out[..., 3].numel()).view(ids.shape)).sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_a_fused_model_has_the_same_logits_and_gradients(model, request):
    fused = copy.deepcopy(model)
    name = request.node.callspec.params["model"]
    assert name in MODELS
    assert fuse(fused) == FUSED.get(name, 0)  # Gemma's norms add one to the weight, others are no RMS norms
    ids = torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fused(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(fused, ids), gradients(model, ids), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_run_as_they_were(model, dtype):
    plain = copy.deepcopy(model).to(dtype)
    fused = copy.deepcopy(model)
    fuse(fused)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(fused.to(dtype)(ids).logits, plain(ids).logits)


def test_a_copy_of_a_fused_model_uses_its_own_weights(tiny):
    policy = load_policy(tiny)
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert not other(torch.tensor([[1, 2]])).logits.any()
    assert policy(torch.tensor([[1, 2]])).logits.any()


def test_adapters_inside_a_fused_layer_are_trained(tiny):
    policy = load_policy(tiny, lora=Lora(rank=2))
    policy(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
    found = {name.split(".")[-4] for name, p in policy.named_parameters() if p.grad is not None and "lora_B" in name}
    assert {"gate_proj", "up_proj", "down_proj"} <= found


class CenteredRMSNorm(nn.Module):
    """Named like one, but it takes the mean away."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


def test_what_gives_other_values_is_left_alone():
    model = nn.Sequential(CenteredRMSNorm())
    assert fuse(model) == 0
    assert "forward" not in model[0].__dict__
