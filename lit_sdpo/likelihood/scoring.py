"""Log-probabilities of given tokens under a policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_sdpo.functional import default_chunk_size
from lit_sdpo.likelihood.encoding import Scored
from lit_sdpo.policies.packing import Sequences, batches
from lit_sdpo.policies.scoring import scorer


def token_logprobs(
    policy: PreTrainedModel, requests: Sequence[Scored], batch_tokens: int | None = None
) -> list[Tensor]:
    """Log-probability of each target token, in eval mode and without gradient.

    Requests with the same context, such as the options of a question, share its forward pass.

    Args:
        policy: A causal language model, possibly with adapters.
        requests: What is asked.
        batch_tokens: Most tokens in one forward pass; a longer request stands alone. ``None``: 4,096 on a CPU, 16,384
            elsewhere.

    Returns:
        Of each request float32 [T], on the CPU.

    Raises:
        FloatingPointError: A log-probability is not a number.
    """
    if not requests:
        return []
    sequences = as_sequences(requests, policy.device)
    found = []
    for part in batches(sequences, batch_tokens):
        score, said = scorer(policy, part), part.completion_ids[part.completion_mask]
        size = default_chunk_size(policy.config.get_text_config().vocab_size, said.device)
        for start in range(0, len(said), size):
            span = slice(start, start + size)
            logits = score(span)
            found.append((logits.gather(-1, said[span, None])[:, 0] - logits.logsumexp(-1)).cpu())
    logprobs = torch.cat(found)
    if bool(logprobs.isnan().any()):
        raise FloatingPointError("the policy's log-probabilities are not numbers: its weights or logits are not finite")
    return list(logprobs.split(sequences.completion_mask.sum(1).tolist()))


def as_sequences(requests: Sequence[Scored], device: torch.device) -> Sequences:
    """The targets as completions to their contexts.

    Args:
        requests: What is asked, at least one thing.
        device: Of the tensors.
    """
    lengths = torch.tensor([len(request.target) for request in requests], device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long, device=device)
    ids[mask] = torch.tensor([token for request in requests for token in request.target], device=device)
    return Sequences([request.context for request in requests], ids, mask)
