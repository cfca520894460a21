"""How many entries of the weights a step really changes, from a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

#: Entries of all weights that are looked at, about.
SAMPLED = 65_536


class MovedShare:
    """Share of the entries of some tensors that a step changes, from a fixed sample of about :data:`SAMPLED` of them.

    Of divided tensors each process looks at its own part.

    Args:
        values: Gives the tensors as they are now, by the name of their share; asked before and after the step.

    Example:
        >>> weight = torch.zeros(4)
        >>> moved = MovedShare(lambda: {"moved": [weight]})
        >>> weight[0] += 1
        >>> moved.shares()
        {'moved': tensor(0.2500)}
    """

    def __init__(self, values: Callable[[], Mapping[str, Sequence[Tensor]]]) -> None:
        self._values = values
        self._before = {name: _Sample(tensors) for name, tensors in values().items()}

    def shares(self, add_up: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The share of each name, a scalar; nan of no entries.

        Args:
            add_up: Sums a tensor over the processes among which the tensors are divided.
        """
        shares = {}
        for name, tensors in self._values().items():
            before = self._before[name]
            changed = _Sample(tensors).entries != before.entries
            counts = torch.stack([(changed * before.weights).sum(), before.weights.sum()])
            moved, count = counts if add_up is None else add_up(counts)
            shares[name] = moved / count
        return shares


class _Sample:
    """Evenly spaced entries of each tensor, and how many entries each stands for."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        parts = [(t.to_local() if isinstance(t, DTensor) else t).detach().flatten() for t in tensors]
        # Odd, as the sizes of matrices are even: or the sample would be a few of their columns.
        stride = (sum(part.numel() for part in parts) // SAMPLED) | 1
        taken = [part[::stride] for part in parts]
        device = parts[0].device if parts else None
        self.entries = torch.cat([some.float() for some in taken]) if parts else torch.empty(0)
        counts = torch.tensor([len(some) for some in taken], device=device)
        sizes = torch.tensor([float(part.numel()) for part in parts], device=device)
        self.weights = (sizes / counts.clamp(min=1)).repeat_interleave(counts)
