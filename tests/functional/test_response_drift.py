from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from lit_sdpo.functional.excess_kl import kl, token_kernels
from lit_sdpo.functional.response_drift import (
    mmd_matrix,
    pairwise_cosine,
    sum_by_row,
    token_drift,
)


def test_each_token_against_scipy():
    generator = torch.Generator().manual_seed(0)
    logits, base = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64) * 2
    ids = torch.tensor([0, 6, 3, 3, 1])
    found = token_drift(logits, base, ids)
    assert token_drift(logits, base).log_ratio.isnan().all()
    for i in range(5):
        p, q = logits[i].softmax(-1).numpy(), base[i].softmax(-1).numpy()
        assert found.forward_kl[i].item() == pytest.approx(entropy(q, p))
        assert found.reverse_kl[i].item() == pytest.approx(entropy(p, q))
        assert found.js[i].item() == pytest.approx(jensenshannon(p, q) ** 2)
        assert found.entropy[i].item() == pytest.approx(entropy(p))
        assert found.log_ratio[i].item() == pytest.approx(math.log(p[ids[i]] / q[ids[i]]))


def test_tokens_that_neither_can_say():
    logits = torch.tensor([[0.0, -torch.inf, 1.0]])
    found = token_drift(logits, logits.clone())
    assert [x.item() for x in found][:3] == [0, 0, 0]
    assert math.isfinite(found.entropy.item())


def test_sums_over_tokens_are_the_kl_of_whole_responses_on_average():
    """Enumerate all responses of three tokens and weigh each by its probability."""
    generator = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64).flatten(1).softmax(-1).view(2, 3, 3, 3)
    kernels = [(a.log(), b.log()) for a, b in zip(token_kernels(p), token_kernels(q), strict=True)]
    forward = reverse = 0.0
    for a in range(3):
        for b in range(3):
            steps = [token_drift(*(k[None] for k in kernels[0]))]
            steps += [token_drift(*(k[a][None] for k in kernels[1])), token_drift(*(k[a, b][None] for k in kernels[2]))]
            forward += float(q[a, b].sum() * sum(step.forward_kl for step in steps))
            reverse += float(p[a, b].sum() * sum(step.reverse_kl for step in steps))
    assert forward == pytest.approx(float(kl(q, p)), rel=1e-10)
    assert reverse == pytest.approx(float(kl(p, q)), rel=1e-10)


def test_cosines_by_hand():
    a = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]])
    b = torch.tensor([[[0.0, 5.0], [2.0, 0.0]], [[0.0, -1.0], [0.0, 0.0]]])
    assert pairwise_cosine(a, b).tolist() == pytest.approx([(0.8 + 0.6 + 0 + 1) / 4, -0.5])


def test_distances_of_sets_by_loops():
    generator = torch.Generator().manual_seed(2)
    sets = [
        torch.randn(n, 3, generator=generator, dtype=torch.float64) + shift for n, shift in ((4, 0), (5, 3), (4, 0))
    ]
    matrix, sigma = mmd_matrix(sets)

    def k(x, y):
        return math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * float(sigma) ** 2))

    def mean(x, y, same):
        pairs = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if not (same and i == j)]
        return sum(pairs) / len(pairs)

    lists = [s.tolist() for s in sets]
    pooled = [row for rows in lists for row in rows]
    distances = sorted(math.dist(a, b) for i, a in enumerate(pooled) for b in pooled[:i])
    assert float(sigma) == pytest.approx((distances[len(distances) // 2] + distances[-len(distances) // 2 - 1]) / 2)
    for i, x in enumerate(lists):
        for j, y in enumerate(lists):
            expected = 0 if i == j else mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
            assert float(matrix[i, j]) == pytest.approx(expected, abs=1e-12)
    assert matrix[0, 1] > 0.5 > matrix[0, 2].abs()


def test_small_pieces():
    assert sum_by_row(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1]), 2).tolist() == [[0.0], [3.0]]
