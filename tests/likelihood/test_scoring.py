"""Log-probabilities against a plain forward pass of each row by itself."""

from __future__ import annotations

import pytest
import torch

from lit_sdpo.likelihood.encoding import Scored
from lit_sdpo.likelihood.scoring import token_logprobs
from lit_sdpo.policies.load import Lora, load_policy

REQUESTS = [
    *(Scored((5, 6, 7, 8), target) for target in [(9,), (10, 11, 12), (10, 11)]),
    Scored((1,), tuple(range(4, 40))),
    Scored((20, 21), (22, 23)),
]


def alone(policy, request):
    ids = torch.tensor([[*request.context, *request.target]])
    with torch.no_grad():
        logprobs = policy(ids).logits[0].float().log_softmax(-1)
    targets = torch.tensor(request.target)
    return logprobs[len(request.context) - 1 : -1].gather(1, targets[:, None])[:, 0]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize("batch_tokens", [1, 12, None])
def test_every_row_has_what_it_has_alone(tiny, lora, batch_tokens):
    policy = load_policy(str(tiny), lora=lora).train()
    torch.manual_seed(0)
    if lora:
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.5)
    found = token_logprobs(policy, REQUESTS, batch_tokens)
    assert policy.training
    for request, logprobs in zip(REQUESTS, found, strict=True):
        torch.testing.assert_close(logprobs, alone(policy, request), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_near(tiny):
    policy = load_policy(str(tiny))
    whole = token_logprobs(policy, REQUESTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = token_logprobs(policy, REQUESTS)
    half = token_logprobs(load_policy(str(tiny), dtype="bfloat16"), REQUESTS)
    for a, b, c in zip(whole, mixed, half, strict=True):
        torch.testing.assert_close(b, a, rtol=0.02, atol=0.15)
        torch.testing.assert_close(c, a, rtol=0.02, atol=0.15)


def test_nothing_to_score_and_no_numbers(tiny):
    policy = load_policy(str(tiny))
    assert token_logprobs(policy, []) == []
    torch.nn.init.constant_(policy.get_output_embeddings().weight, torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        token_logprobs(policy, REQUESTS)
