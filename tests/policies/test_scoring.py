from __future__ import annotations

import pytest
import torch

from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import completion_hidden, logits, scorer, weighted_loss

PROMPTS = [[5, 9, 11, 2, 30], [7], list(range(20, 43)), [50, 51]]
LENGTHS = [7, 1, 4, 9]


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(0, 61, mask.shape, generator=generator), mask


@torch.no_grad()
def plain(model, ids):
    """One forward per row without padding."""
    found = []
    for prompt, row, length in zip(PROMPTS, ids, LENGTHS, strict=True):
        out = model(torch.tensor([prompt + row[:length].tolist()]), use_cache=False).logits[0]
        found.append(out[len(prompt) - 1 : -1])
    return torch.cat(found)


def test_g06_logits_equal_a_plain_forward(model, rows):
    ids, mask = rows
    with torch.no_grad():
        made = logits(model, completion_hidden(model, Sequences(PROMPTS, ids, mask)))
    torch.testing.assert_close(made, plain(model, ids), rtol=1e-4, atol=1e-5)
    score = scorer(model, Sequences(PROMPTS, ids, mask))
    torch.testing.assert_close(torch.cat([score(slice(0, 5)), score(slice(5, sum(LENGTHS)))]), made)
    assert made.dtype == torch.float32


def test_tokens_at_padded_places_do_not_matter(model, rows):
    ids, mask = rows
    other = ids.masked_fill(~mask, 60)
    with torch.no_grad():
        a, b = (completion_hidden(model, Sequences(PROMPTS, x, mask)) for x in (ids, other))
    assert torch.equal(a, b)


def test_the_chunked_loss_has_the_plain_gradient(model, rows):
    ids, mask = rows
    targets, weight = ids[mask], torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(1))

    def losses(out, span):
        return weight[span] * torch.nn.functional.cross_entropy(out, targets[span], reduction="none")

    gradients = []
    for chunked in (True, False):
        model.zero_grad()
        hidden = completion_hidden(model, Sequences(PROMPTS, ids, mask))
        whole = slice(None)
        loss = weighted_loss(model, hidden, losses) if chunked else losses(logits(model, hidden), whole).sum()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
