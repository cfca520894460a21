"""From hidden states and the LM-head weight to what losses need, without ever holding [M, V] at once.

The logits of a few hundred tokens are made, used and overwritten, chunk by chunk. Two ways to a gradient:

- :func:`chunked_loss` knows what becomes of each token, so it builds the gradient in the forward pass: three matrix
  products per chunk. It serves every loss that is a weighted sum over tokens.
- :func:`token_logprobs` returns differentiable log-probabilities for any further use (sequence-level ratios) and makes
  the logits a second time in the backward pass: four products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lit_sdpo.functional.precision import at_least_float32, tempered
from lit_sdpo.functional.top_k import log_tail_mass

_CPU_CHUNK_BYTES = 2**24  # small enough to stay near the cache
_ACCELERATOR_CHUNK_BYTES = 2**28
_CHUNK_TOKENS = 240  # at least, for the matrix products


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy ``-sum p log p`` of ``p = softmax(logits / temperature)``, in nats; differentiable.

    Args:
        logits: [..., V]; -inf means impossible.
        temperature: Divides the logits.

    Example:
        >>> entropy(torch.zeros(4))
        tensor(1.3863)
    """
    logprobs = torch.log_softmax(tempered(logits, temperature), -1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def default_chunk_size(vocabulary: int, device: torch.device) -> int:
    """Tokens per chunk: a chunk of float32 logits takes 16 MiB on a CPU and 256 MiB on an accelerator, or 240 tokens.

    Args:
        vocabulary: V.
        device: Where the logits are made.
    """
    chunk = _CPU_CHUNK_BYTES if device.type == "cpu" else _ACCELERATOR_CHUNK_BYTES
    return max(_CHUNK_TOKENS, chunk // (4 * vocabulary))


def _spans(tokens: int, weight: Tensor, chunk_size: int | None) -> Iterator[slice]:
    size = default_chunk_size(weight.shape[0], weight.device) if chunk_size is None else chunk_size
    if size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {size}")
    even = -(-tokens // max(1, -(-tokens // size)))  # a short last chunk would make slow products
    return (slice(start, min(start + even, tokens)) for start in range(0, tokens, max(1, even)))


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype in which the head multiplies: that of autocast where it is on, else that of the hidden states."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _head(
    hidden: Tensor, weight: Tensor, dtype: torch.dtype, temperature: float, buffer: Tensor | None = None
) -> Tensor:
    """Logits of a chunk, in the memory of ``buffer`` where that has their dtype."""
    with torch.autocast(hidden.device.type, enabled=False):
        a, b = hidden.to(dtype), weight.to(dtype).T
        if buffer is None or buffer.dtype != dtype:
            return tempered(a @ b, temperature)
        logits = torch.mm(a, b, out=buffer[: len(a)])
        return logits if temperature == 1 else logits.div_(temperature)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``, without a temporary where the dtypes allow."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class _TokenLogprobs(torch.autograd.Function):
    """Log-probability and entropy per token; the backward makes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, chunk_size: int | None, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.options = chunk_size, temperature, product_dtype(hidden)
        kind = at_least_float32(hidden[:0]).dtype
        logprobs, entropies, totals = (torch.empty(len(hidden), dtype=kind, device=hidden.device) for _ in range(3))
        for span in _spans(len(hidden), weight, chunk_size):
            logits = _head(hidden[span], weight, ctx.options[2], temperature)
            totals[span] = logits.logsumexp(-1)
            logits -= totals[span, None]
            logprobs[span] = logits.gather(-1, ids[span, None])[:, 0]
            probabilities = logits.exp()
            entropies[span] = -(probabilities * logits.masked_fill_(logits == -torch.inf, 0.0)).sum(-1)
        ctx.save_for_backward(hidden, weight, ids, totals, entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ids, totals, entropies = ctx.saved_tensors
        chunk_size, temperature, dtype = ctx.options
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=totals.dtype) if needs_weight else None
        through_entropy = bool(grad_entropies.any())
        for span in _spans(len(hidden), weight, chunk_size):
            logprobs = _head(hidden[span], weight, dtype, temperature) - totals[span, None]
            # d log p(y) / d logits = onehot(y) - p;  d H / d logits = -p (log p + H)
            grad = -grad_logprobs[span, None] * logprobs.exp()
            grad.scatter_add_(-1, ids[span, None], grad_logprobs[span, None])
            if through_entropy:
                finite = logprobs.masked_fill(logprobs == -torch.inf, 0.0)
                grad -= grad_entropies[span, None] * logprobs.exp() * (finite + entropies[span, None])
            grad /= temperature
            if grad_hidden is not None:
                grad_hidden[span] = grad.to(dtype) @ weight.to(dtype)
            if grad_weight is not None:
                _add_product(grad_weight, grad.to(dtype).T, hidden[span].to(dtype))
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def token_logprobs(
    hidden: Tensor, weight: Tensor, ids: Tensor, *, chunk_size: int | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of the distribution it is drawn from.

    ``log softmax(hidden @ weight.T / temperature)[ids]``. The product runs in autocast's dtype where autocast is on,
    everything after it in float32 or better. Both results are differentiable in ``hidden`` and ``weight``.

    Args:
        hidden: Last hidden states, [M, D].
        weight: LM-head weight, [V, D].
        ids: Tokens, int64 [M].
        chunk_size: Tokens at a time; ``None`` chooses by :func:`default_chunk_size`.
        temperature: Divides the logits.

    Returns:
        Log-probabilities [M] and entropies [M], in nats.

    Example:
        >>> logprobs, entropies = token_logprobs(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 1]))
        >>> logprobs, entropies
        (tensor([-1.3863, -1.3863]), tensor([1.3863, 1.3863]))
    """
    result: tuple[Tensor, Tensor] = _TokenLogprobs.apply(hidden, weight, ids, chunk_size, float(temperature))
    return result


class TopK(NamedTuple):
    """The k most likely tokens.

    Attributes:
        ids: int64 [M, K], most likely first.
        logprobs: Their log-probabilities, [M, K].
        tail: Log-mass of all other tokens, [M]; -inf where there is none.
    """

    ids: Tensor
    logprobs: Tensor
    tail: Tensor


def top_k_logprobs(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    *,
    ids: Tensor | None = None,
    chunk_size: int | None = None,
    temperature: float = 1.0,
) -> TopK:
    """The k most likely tokens, their log-probabilities and the log-mass of the rest.

    Give the student's ``ids`` to read a teacher at the same entries. Differentiable: the backward makes each chunk's
    logits again.

    Args:
        hidden: [M, D].
        weight: [V, D].
        k: At most V entries are taken; ignored where ``ids`` are given.
        ids: Entries to read instead of the most likely ones, int64 [M, K].
        chunk_size: Tokens at a time; ``None`` chooses by :func:`default_chunk_size`.
        temperature: Divides the logits.
    """
    dtype = product_dtype(hidden)

    def of_chunk(part: Tensor, weight: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        logits = _head(part, weight, dtype, temperature)
        chosen = logits.detach().topk(min(k, logits.shape[-1]), dim=-1).indices if given is None else given
        total = logits.logsumexp(-1, keepdim=True)
        return chosen, logits.gather(-1, chosen) - total, log_tail_mass(logits, chosen) - total[:, 0]

    parts = [
        checkpoint(of_chunk, hidden[span], weight, None if ids is None else ids[span], use_reentrant=False)
        for span in _spans(len(hidden), weight, chunk_size)
    ]
    if not parts:
        parts = [of_chunk(hidden, weight, ids)]
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _ChunkedLoss(torch.autograd.Function):
    """Sum of weighted token losses with the gradient built in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        loss_weights: Tensor,
        per_token_loss: Callable[[Tensor, slice], Tensor],
        chunk_size: int | None,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        dtype = product_dtype(hidden)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        kind = at_least_float32(hidden[:0]).dtype
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=kind) if needs_weight else None
        per_token = torch.zeros(len(hidden), dtype=kind, device=hidden.device)
        buffer: Tensor | None = None
        for span in _spans(len(hidden), weight, chunk_size):
            products = _head(hidden[span], weight, dtype, temperature, buffer)
            if buffer is None and products.dtype == dtype:
                buffer = products
            logits = products.detach().requires_grad_(needs_hidden or needs_weight)
            with torch.enable_grad(), torch.autocast(hidden.device.type, enabled=False):
                losses = per_token_loss(logits, span)
            per_token[span] = losses.detach()
            if not losses.requires_grad:
                continue
            (grad,) = torch.autograd.grad(losses, logits, loss_weights[span].to(losses.dtype))
            del products, logits, losses
            grad = (grad if temperature == 1.0 else grad / temperature).to(dtype)
            if grad_hidden is not None:
                grad_hidden[span] = (grad @ weight.to(dtype)).to(hidden.dtype)
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, hidden[span].to(dtype))
            del grad  # the next chunk takes its memory
        # Not saved but handed over: the backward gives them away without a copy.
        ctx.made = grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        ctx.mark_non_differentiable(per_token)
        return (loss_weights * per_token).sum(), per_token

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        if ctx.made is None:
            raise RuntimeError("chunked_loss was asked for its gradient twice: it serves one backward pass")
        made, ctx.made = ctx.made, None
        hidden, weight = (None if g is None else g.mul_(grad_output.to(g.dtype)) for g in made)
        return hidden, weight, None, None, None, None


def chunked_loss(
    hidden: Tensor,
    weight: Tensor,
    loss_weights: Tensor,
    per_token_loss: Callable[[Tensor, slice], Tensor],
    *,
    chunk_size: int | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """``sum(loss_weights * per_token_loss(logits))`` with ``logits = hidden @ weight.T / temperature``, in chunks.

    The gradients of ``hidden`` and ``weight`` are built in the forward pass, so no logits outlive their chunk. Nothing
    else receives a gradient. They serve one backward pass.

    Args:
        hidden: Hidden states of the M tokens, [M, D].
        weight: LM-head weight, [V, D].
        loss_weights: Weight of each token in the loss, [M]; see :func:`lit_sdpo.functional.reduce.token_weights`.
        per_token_loss: From a chunk's logits [m, V], float32 or better, and its place among the M tokens to its losses
            [m]. It may make a teacher's logits for the same place and read any per-token tensor there. The next
            chunk's logits take the place of these: what it keeps has to be a copy.
        chunk_size: Tokens at a time; ``None`` chooses by :func:`default_chunk_size`.
        temperature: Divides the logits.

    Returns:
        The loss, a scalar, and the losses of all tokens, [M], without gradient.

    Example:
        >>> hidden, head = torch.zeros(2, 3, requires_grad=True), torch.ones(4, 3)
        >>> ids = torch.tensor([0, 1])
        >>> def cross_entropy(logits, span):
        ...     return torch.nn.functional.cross_entropy(logits, ids[span], reduction="none")
        >>> loss, per_token = chunked_loss(hidden, head, torch.tensor([0.5, 0.5]), cross_entropy, chunk_size=1)
        >>> round(loss.item(), 4)
        1.3863
    """
    result: tuple[Tensor, Tensor] = _ChunkedLoss.apply(
        hidden, weight, loss_weights.detach(), per_token_loss, chunk_size, float(temperature)
    )
    return result
