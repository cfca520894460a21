"""Run a model over prompts and their completions and return what it predicts for the completion's tokens only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_sdpo.functional import chunked_loss


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
    whole: Any = model
    base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    return getattr(base, base.base_model_prefix)


def head(model: PreTrainedModel) -> nn.Module:
    """The language-model head."""
    layer: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    return layer


def finish(model: PreTrainedModel, products: Tensor) -> Tensor:
    """Logits in float32 from the head's products, with the architecture's own scaling and soft cap."""
    config = model.config.get_text_config()
    out = products.float()
    if (scale := getattr(config, "logit_scale", None)) is not None:
        out = out * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        out = out / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        out = torch.tanh(out / cap) * cap
    return out


def logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits in float32, [M, V]."""
    return finish(model, head(model)(hidden))


#: Logits of some of the M completion tokens: from their place to [m, V].
Scorer = Callable[[slice], Tensor]


@torch.no_grad()
def scorer(
    model: PreTrainedModel, prompt_ids: Sequence[Sequence[int]], completion_ids: Tensor, completion_mask: Tensor
) -> Scorer:
    """Run the decoder once, in eval mode and without gradient, and make logits where they are asked for.

    Never all [M, V] at once.
    """
    with eval_mode(model):
        hidden = completion_hidden(model, prompt_ids, completion_ids, completion_mask)

    @torch.no_grad()
    def score(span: slice) -> Tensor:
        return logits(model, hidden[span])

    return score


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every submodule's own mode after.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with eval_mode(model):
        ...     model[0].training
        False
        >>> model[0].training, model[1].training
        (True, False)
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def weighted_loss(model: PreTrainedModel, hidden: Tensor, token_losses: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Sum of the losses of M tokens, their logits made in chunks and their gradient in the forward pass where possible.

    Args:
        model: Gives the head.
        hidden: [M, D].
        token_losses: From a chunk's float32 logits [m, V] and its place to the weighted losses, [m].
    """
    layer = head(model)
    if type(layer) is not nn.Linear or layer.bias is not None:
        return token_losses(logits(model, hidden), slice(0, len(hidden))).sum()
    ones = torch.ones(len(hidden), device=hidden.device)
    loss, _ = chunked_loss(hidden, layer.weight, ones, lambda x, span: token_losses(finish(model, x), span))
    return loss
