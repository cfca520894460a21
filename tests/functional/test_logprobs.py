from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lit_sdpo.functional import (
    aggregate,
    chunked_loss,
    default_chunk_size,
    divergence,
    entropy,
    log_softmax,
    ppo_loss,
    sdpo_loss,
    token_logprobs,
    token_weights,
    top_k_logprobs,
    top_k_with_tail,
)

M, D, V = 11, 5, 23


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(V, (M,), generator=generator)


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs, retain_graph=True)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_size", [1, 4, M, 100, None])
def test_token_logprobs_and_their_gradients_equal_the_plain_form(chunk_size, temperature):
    hidden, weight, ids = case()
    logits = hidden @ weight.T / temperature
    plain = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0], entropy(logits)
    ours = token_logprobs(hidden, weight, ids, chunk_size=chunk_size, temperature=temperature)
    upstream = torch.linspace(-1, 2, M, dtype=torch.float64)
    for a, b in zip(ours, plain, strict=True):
        same(a, b)
        same(gradients((a * upstream).sum(), hidden, weight), gradients((b * upstream).sum(), hidden, weight))
    same(gradients((ours[0] * ours[1]).sum(), hidden), gradients((plain[0] * plain[1]).sum(), hidden))


@pytest.mark.parametrize("chunk_size", [1, 4, None])
@pytest.mark.parametrize("given", [False, True])
def test_top_k_equals_the_plain_form(given, chunk_size):
    hidden, weight, _ = case()
    logits = (hidden @ weight.T / 0.8).log_softmax(-1)
    ids = torch.rand(M, V, generator=torch.Generator().manual_seed(1)).topk(4).indices if given else None
    ours = top_k_logprobs(hidden, weight, 4, ids=ids, chunk_size=chunk_size, temperature=0.8)
    expected = logits.gather(-1, ids) if given else logits.topk(4).values
    outside = torch.ones(M, V, dtype=torch.bool).scatter(-1, ours.ids, False)
    tail = (logits.exp() * outside).sum(-1).log()
    same((ours.logprobs, ours.tail), (expected, tail))
    for a, b in ((ours.logprobs, expected), (ours.tail, tail)):
        same(gradients(a.square().sum(), hidden, weight), gradients(b.square().sum(), hidden, weight))


def test_top_k_of_all_tokens_has_no_tail():
    hidden, weight, _ = case()
    got = top_k_logprobs(hidden, weight, V)
    assert (got.tail == -torch.inf).all()
    assert torch.autograd.grad(got.logprobs.exp().square().sum(), hidden)[0].isfinite().all()


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean"])
@pytest.mark.parametrize("loss", ["ppo", "jsd", "top_k"])
def test_chunked_loss_equals_the_plain_form(loss, aggregation, chunk_size):
    hidden, weight, ids = case()
    teacher = torch.randn(M, V, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mask = torch.arange(6) < torch.tensor([6, 1, 4])[:, None]
    old, advantages = torch.linspace(-4, -1, M, dtype=torch.float64), torch.linspace(-1, 1, M, dtype=torch.float64)

    def per_token(logits, span=slice(None)):
        if loss == "ppo":
            logprobs = logits.log_softmax(-1).gather(-1, ids[span, None])[:, 0]
            return ppo_loss(logprobs, old[span], advantages[span]).per_token
        top_k = 5 if loss == "top_k" else None
        return sdpo_loss(logits, teacher[span], ids[span], top_k=top_k, old_logprobs=old[span], importance_clip=2.0)

    plain = per_token(hidden @ weight.T / 0.8)
    padded = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, plain)
    expected = aggregate(padded, mask, aggregation)
    weights = token_weights(mask, aggregation, dtype=torch.float64)[mask]
    value, tokens = chunked_loss(hidden, weight, weights, per_token, chunk_size=chunk_size, temperature=0.8)
    same((value, tokens), (expected, plain.detach()))
    same(gradients(3 * value, hidden, weight), gradients(3 * expected, hidden, weight))


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, ids = case()
    weight = weight.detach()
    loss, _ = chunked_loss(
        hidden, weight, torch.ones(M), lambda x, s: -log_softmax(x).gather(-1, ids[s, None])[:, 0], chunk_size=2
    )
    expected = -log_softmax(hidden @ weight.T).gather(-1, ids[:, None]).sum()
    same(gradients(loss, hidden), gradients(expected, hidden))
    with torch.no_grad():
        assert not chunked_loss(hidden, weight, torch.ones(M), lambda x, s: x.sum(-1))[0].requires_grad


def test_no_tokens_at_all():
    hidden, weight, ids = case()
    logprobs, _ = token_logprobs(hidden[:0], weight, ids[:0])
    loss, tokens = chunked_loss(hidden[:0], weight, torch.empty(0), lambda x, s: x.sum(-1))
    assert logprobs.shape == tokens.shape == (0,)
    assert top_k_logprobs(hidden[:0], weight, 3).logprobs.shape == (0, 3)
    assert (gradients(loss + logprobs.sum(), weight)[0] == 0).all()


def test_bfloat16_states_are_reduced_in_float32():
    hidden, weight, ids = (x.detach() for x in case())
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    logprobs, entropies = token_logprobs(hidden, weight, ids)
    assert logprobs.dtype == entropies.dtype == torch.float32
    expected = (hidden @ weight.T).float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)


def test_autocast_governs_the_product_and_its_backward():
    hidden, weight, ids = (x.detach().float() if x.is_floating_point() else x for x in case())
    hidden.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = token_logprobs(hidden, weight, ids)
        loss, _ = chunked_loss(
            hidden, weight, torch.ones(M), lambda x, s: log_softmax(x).gather(-1, ids[s, None])[:, 0]
        )
    half = hidden.detach().bfloat16().requires_grad_()
    expected, _ = token_logprobs(half, weight.bfloat16(), ids)
    assert torch.equal(logprobs, expected)
    reference = gradients(expected.sum(), half)[0].float()
    for value in (logprobs.sum(), loss):
        torch.testing.assert_close(gradients(value, hidden)[0], reference, rtol=2e-2, atol=2e-2)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("chunk_size", [1, 8])
def test_memory_grows_with_the_chunk_and_never_holds_all_logits(chunk_size):
    tokens, vocabulary = 200, 1000
    hidden = torch.randn(tokens, 4, requires_grad=True)
    weight, ids = torch.randn(vocabulary, 4), torch.randint(vocabulary, (tokens,))
    with Largest() as largest:
        logprobs, entropies = token_logprobs(hidden, weight, ids, chunk_size=chunk_size)
        top = top_k_logprobs(hidden, weight, 5, chunk_size=chunk_size)
        loss, _ = chunked_loss(
            hidden,
            weight,
            torch.ones(tokens),
            lambda x, s: divergence(log_softmax(x), log_softmax(x.detach().roll(1, -1)), 0.5),
            chunk_size=chunk_size,
        )
        (logprobs.sum() + entropies.sum() + top.logprobs.sum() + loss).backward()
    assert largest.numel <= max(chunk_size * vocabulary, vocabulary * 4)


def test_a_chunked_loss_serves_one_backward_pass():
    hidden, weight, ids = case()
    loss, _ = chunked_loss(
        hidden, weight, torch.ones(M, dtype=hidden.dtype), lambda x, s: -log_softmax(x).gather(-1, ids[s, None])[:, 0]
    )
    first = gradients(loss, hidden)
    with pytest.raises(RuntimeError, match="one backward pass"):
        gradients(loss, hidden)
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, ids, reduction="sum")
    same(first, gradients(plain, hidden))


def test_default_chunk_size():
    assert default_chunk_size(32_768, torch.device("cpu")) == 240
    assert default_chunk_size(512, torch.device("cpu")) == 8192
    assert default_chunk_size(150_000, torch.device("cpu")) == 240
    assert default_chunk_size(150_000, torch.device("cuda")) == 447
    with pytest.raises(ValueError, match="chunk_size"):
        token_logprobs(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, dtype=torch.long), chunk_size=0)


def test_entropy_of_impossible_entries():
    x = torch.tensor([0.0, 0.0, -torch.inf], requires_grad=True)
    value = entropy(x)
    assert value.item() == pytest.approx(0.6931472)
    assert gradients(value, x)[0].isfinite().all()


def test_read_together_they_give_the_tail_divergence():
    """Ids from the student, both sides read there: the two reduced distributions of the top-k divergence."""
    hidden, weight, _ = case()
    other = hidden.detach().roll(1, 0)
    student = top_k_logprobs(hidden, weight, 4)
    teacher = top_k_logprobs(other, weight.detach(), 4, ids=student.ids)
    pair = [torch.cat([x.logprobs, x.tail[:, None]], -1) for x in (student, teacher)]
    expected = divergence(*top_k_with_tail(hidden @ weight.T, other @ weight.T, 4), 0.5)
    same(divergence(*pair, 0.5), expected)
