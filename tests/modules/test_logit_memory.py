from __future__ import annotations

import pytest
import torch

from tests.training import method


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_gradient_needs_logits_and_their_softmax(tiny, dtype):
    """In float32, whatever the weights; the softmax becomes the gradient where it stands."""
    module = method("grpo", tiny, dtype=dtype)
    module.configure_model()
    module._tally = {"kept": torch.ones(())}
    vocabulary = module.policy.config.vocab_size
    assert 2 <= module.logit_bytes(1.0) / (4 * vocabulary) < 2.2
    assert 3 <= module.logit_bytes(0.5) / (4 * vocabulary) < 3.2  # divided, they are new ones
    assert module._tally == {"kept": torch.ones(())}


def test_other_models_logits_count(tiny):
    plain, penalised, teaching = (
        method(kind, tiny, **options) for kind, options in (("grpo", {}), ("grpo", {"kl_beta": 0.1}), ("sdpo", {}))
    )
    found = []
    for module in (plain, penalised, teaching):
        module.configure_model()
        found.append(module.logit_bytes(1.0))
    assert min(found[1:]) >= found[0] + 4 * plain.policy.config.vocab_size
