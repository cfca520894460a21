from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from lit_sdpo.functional import kl_estimates, median_distance, squared_mmd, total_variation


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("sigma", [None, 0.7])
def test_mmd_against_scipy(sigma, unbiased):
    x, y = random(6, 3), random(9, 3, seed=1) + 0.5
    value, width = squared_mmd(x, y, sigma=sigma, unbiased=unbiased)
    h = sigma or np.median(pdist(np.concatenate([x, y])))
    kernel = {key: np.exp(-(cdist(a, b) ** 2) / (2 * h**2)) for key, a, b in (("xx", x, x), ("yy", y, y), ("xy", x, y))}
    within = [k[~np.eye(len(k), dtype=bool)].mean() if unbiased else k.mean() for k in (kernel["xx"], kernel["yy"])]
    assert width.item() == pytest.approx(h)
    assert value.item() == pytest.approx(sum(within) - 2 * kernel["xy"].mean())


def test_mmd_at_its_ends():
    x = random(8, 3)
    assert squared_mmd(x, x, unbiased=False)[0].item() == pytest.approx(0, abs=1e-12)
    assert squared_mmd(x, x)[0] < 0
    same = torch.ones(4, 3)
    value, width = squared_mmd(same, same)
    assert (value, width) == (0, 0)
    far = torch.cat([torch.zeros(3, 2), torch.ones(1, 2)])
    assert squared_mmd(far, far, unbiased=False)[0] == 0  # median 0, yet not all equal
    assert median_distance(torch.zeros(1, 1), torch.tensor([[3.0], [5.0]])).item() == 3


def test_kl_estimates_converge_to_the_kl():
    p, q = random(2, 12).log_softmax(-1)
    ids = torch.multinomial(p.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    exact = (p.exp() * (p - q)).sum().item()
    got = kl_estimates(p[ids], q[ids])
    assert got["k1"].item() == pytest.approx(exact, rel=0.02)
    assert got["k3"].item() == pytest.approx(exact, rel=0.02)
    assert got["k2"].item() == pytest.approx(((p.exp() * (p - q).square()).sum() / 2).item(), rel=0.02)
    mask = torch.tensor([True, False])
    assert kl_estimates(torch.tensor([1.0, torch.nan]), torch.zeros(2), mask)["k1"] == 1
    assert kl_estimates(torch.zeros(2), torch.zeros(2), ~mask & mask)["k3"] == 0
    assert total_variation(p, q).item() == pytest.approx(0.5 * np.abs(np.exp(p.numpy()) - np.exp(q.numpy())).sum())
