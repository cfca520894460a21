"""Run a model over prompts and their completions and return what it predicts for the completion's tokens only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_sdpo.functional import chunked_loss, default_chunk_size
from lit_sdpo.policies.attention import UnsupportedModelError, attending, obstacle, say_once
from lit_sdpo.policies.packing import Packing, Sequences
from lit_sdpo.policies.sharding import as_forward
from lit_sdpo.policies.sharding import base_model as base_model


def completion_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """Hidden states that predict the completion tokens, M = number of true entries of the mask.

    Rows are packed without padding, and rows with the same prompt share its forward and backward pass. A model whose
    attention is not plain causal attention (a sliding window shorter than the rows, soft-capping, linear attention)
    gets padded rows instead, which is slower; the log says so once.

    Args:
        model: A causal language model, possibly with adapters.
        sequences: N prompts and their completions.

    Returns:
        [M, D], in row-major order of the mask.
    """
    return as_forward(model, lambda: _completion_hidden(model, sequences))


def _completion_hidden(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    part = decoder(model)
    reason = obstacle(base_model(model), sequences.longest)
    if reason is None and "position_ids" not in inspect.signature(part.forward).parameters:
        reason = "it takes no position ids"
    if reason is None:
        packing = Packing(sequences)
        try:
            with attending(base_model(model), packing):
                out = part(input_ids=packing.ids[None], position_ids=packing.positions[None], use_cache=False)
            if packing.attended:
                return out.last_hidden_state[0].index_select(0, packing.places)
            reason = "its attention does not go through Transformers' attention interface"
        except UnsupportedModelError as error:
            reason = str(error)
    say_once(f"{type(base_model(model)).__name__} is trained on padded rows, which is slower: {reason}")
    return padded_hidden(part, sequences)


def padded_hidden(part: nn.Module, sequences: Sequences) -> Tensor:
    """The same for any architecture.

    Rows are laid out from position 0 without a gap and padded on the right. Under causal attention no real token sees
    the padding, so no attention mask is needed and every kind of position encoding is right.
    """
    completion_ids, completion_mask = sequences.completion_ids, sequences.completion_mask
    device = completion_ids.device
    lengths = torch.tensor([len(p) for p in sequences.prompt_ids], device=device)
    ids = completion_ids.new_zeros(len(sequences), sequences.longest)
    for row, prompt in enumerate(sequences.prompt_ids):
        ids[row, : len(prompt)] = torch.as_tensor(prompt, device=device)
    rows, columns = completion_mask.nonzero(as_tuple=True)
    places = lengths[rows] + columns
    ids[rows, places] = completion_ids[rows, columns]
    hidden = part(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[rows, places - 1]


def decoder(model: PreTrainedModel) -> nn.Module:
    """The model without its language-model head; adapters stay active."""
    base = base_model(model)
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


@torch.no_grad()
def read_logits(model: PreTrainedModel, hidden: Tensor, read: Callable[[Tensor, slice], None]) -> None:
    """Show the logits of M tokens without gradient, a chunk at a time.

    Args:
        model: Gives the head.
        hidden: [M, D].
        read: Takes a chunk's float32 logits [m, V] and its place among the M tokens.
    """
    size = default_chunk_size(model.config.get_text_config().vocab_size, hidden.device)
    for start in range(0, len(hidden), size):
        span = slice(start, min(start + size, len(hidden)))
        read(logits(model, hidden[span]), span)


#: Logits of some of the M completion tokens: from their place to [m, V].
Scorer = Callable[[slice], Tensor]


@torch.no_grad()
def scorer(model: PreTrainedModel, sequences: Sequences) -> Scorer:
    """Run the decoder once, in eval mode and without gradient, and make logits where they are asked for.

    Never all [M, V] at once.
    """
    with eval_mode(model):
        hidden = completion_hidden(model, sequences)

    @torch.no_grad()
    def score(span: slice) -> Tensor:
        return logits(model, hidden[span])

    return score


def scattered(parts: Sequence[tuple[Tensor, Scorer]]) -> Scorer:
    """Predictions of several models, each about its own of M tokens; zeros where none is asked.

    Args:
        parts: Which tokens, bool [M], and what scores them, counted among themselves.
    """
    placed = [(chosen, chosen.cumsum(0), score) for chosen, score in parts]

    def scatter(span: slice) -> Tensor:
        out: Tensor | None = None
        for chosen, place, score in placed:
            inside = chosen[span]
            first = int(place[span.start - 1]) if span.start else 0
            found = score(slice(first, first + int(inside.sum())))
            out = found.new_zeros(len(inside), found.shape[-1]) if out is None else out
            out[inside] = found
        assert out is not None, "there is nothing to scatter"
        return out

    return scatter


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
