from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.functional import gradient_cosine


def test_all_tensors_together_are_one_long_vector():
    a, b = torch.randn(2, 7, dtype=torch.float64)
    found = gradient_cosine([a[:4].view(2, 2), a[4:]], [b[:4].view(2, 2), b[4:]])
    x, y = a.tolist(), b.tolist()
    norms = [math.sqrt(sum(v * v for v in vector)) for vector in (x, y)]
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    assert [float(v) for v in found] == pytest.approx([dot / (norms[0] * norms[1]), *norms], rel=1e-12)
    apart = gradient_cosine([a[:4]], [b[:4]]).cosine + gradient_cosine([a[4:]], [b[4:]]).cosine
    assert float(apart / 2) != pytest.approx(float(found.cosine), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_small_nor_large_gradients_lose_it(scale, dtype):
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    found = gradient_cosine([(a * scale).to(dtype)], [(b * scale).to(dtype)])
    assert float(found.cosine) == pytest.approx(0.96, rel=1e-2)
    assert float(found.norm_a) == pytest.approx(5 * scale, rel=1e-2)


def test_bounds_and_zero():
    a = torch.rand(1000)
    assert float(gradient_cosine([a], [a]).cosine) == pytest.approx(1)
    assert abs(float(gradient_cosine([a], [-3 * a]).cosine)) <= 1
    assert gradient_cosine([torch.zeros(2)], [torch.ones(2)]).cosine.isnan()
    assert gradient_cosine([], []).cosine.isnan()


def test_mistakes():
    with pytest.raises(ValueError, match="zip"):
        gradient_cosine([torch.ones(1)], [])
    with pytest.raises(ValueError, match="other shapes"):
        gradient_cosine([torch.ones(1)], [torch.ones(2)])
