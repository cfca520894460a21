"""Run a model over prompts and their completions and return what it predicts for the completion's tokens only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def completion_hidden(
    model: PreTrainedModel, prompt_ids: Sequence[Sequence[int]], completion_ids: Tensor, completion_mask: Tensor
) -> Tensor:
    """Hidden states that predict the completion tokens, M = number of true entries of the mask.

    Rows are laid out from position 0 without a gap and padded on the right. Under causal attention no real token sees
    the padding, so no attention mask is needed and every kind of position encoding is right.

    Args:
        model: A causal language model, possibly with adapters.
        prompt_ids: N prompts.
        completion_ids: [N, T], right-padded.
        completion_mask: bool [N, T].

    Returns:
        [M, D], in row-major order of the mask.
    """
    device = completion_ids.device
    lengths = torch.tensor([len(p) for p in prompt_ids], device=device)
    width = int((lengths + completion_mask.sum(1)).max())
    ids = completion_ids.new_zeros(len(prompt_ids), width)
    for row, prompt in enumerate(prompt_ids):
        ids[row, : len(prompt)] = torch.as_tensor(prompt, device=device)
    rows, columns = completion_mask.nonzero(as_tuple=True)
    places = lengths[rows] + columns
    ids[rows, places] = completion_ids[rows, columns]
    hidden = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[rows, places - 1]


def decoder(model: PreTrainedModel) -> nn.Module:
    """The model without its language-model head; adapters stay active."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, base.base_model_prefix)


def logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits in float32, [M, V], with the architecture's own scaling and soft cap."""
    config = model.config.get_text_config()
    out = model.get_output_embeddings()(hidden).float()
    if (scale := getattr(config, "logit_scale", None)) is not None:
        out = out * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        out = out / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        out = torch.tanh(out / cap) * cap
    return out


def completion_logits(
    model: PreTrainedModel, prompt_ids: Sequence[Sequence[int]], completion_ids: Tensor, completion_mask: Tensor
) -> Tensor:
    """Float32 logits for the completion tokens, [M, V]; see :func:`completion_hidden`."""
    return logits(model, completion_hidden(model, prompt_ids, completion_ids, completion_mask))
