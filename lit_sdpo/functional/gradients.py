"""Whether two gradients pull the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class GradientCosine(NamedTuple):
    """Two gradients, each over all tensors together; float64 scalars.

    Attributes:
        cosine: In [-1, 1]; nan if one of them is zero.
        norm_a: Euclidean norm of the first.
        norm_b: Euclidean norm of the second.
    """

    cosine: Tensor
    norm_a: Tensor
    norm_b: Tensor


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(x, dtype=torch.float64) for x in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), dtype=torch.float64)


@torch.no_grad()
def gradient_cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> GradientCosine:
    """``sum a b / (‖a‖ ‖b‖)`` over all tensors together, which is not the mean of their cosines.

    Below 0 a step down one gradient raises, to first order, the loss of the other: the early sign of forgetting where
    they are those of the current and of an earlier task.

    Args:
        a: A gradient, one tensor for each weight.
        b: Another, of the same shapes in the same order.

    Raises:
        ValueError: Lengths or shapes differ.

    Example:
        >>> gradient_cosine([torch.tensor([3.0]), torch.tensor([4.0])], [torch.ones(1), torch.zeros(1)]).cosine
        tensor(0.6000, dtype=torch.float64)
    """
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            raise ValueError(f"gradients of one weight have other shapes: {list(x.shape)}, {list(y.shape)}")
    norm_a, norm_b = _norm(a), _norm(b)
    # Divided first: products of small gradients would vanish in float32.
    products = [((x.double() / norm_a) * (y.double() / norm_b)).sum() for x, y in zip(a, b, strict=True)]
    cosine = torch.stack(products).sum() if products else norm_a / norm_b
    return GradientCosine(cosine.clamp(-1.0, 1.0), norm_a, norm_b)
