"""Repetition in sequences of tokens, and how far two models are apart on them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lit_sdpo.functional import fill_masked, kl_penalty, repetition_share
from lit_sdpo.ranges import check_integer


class _SequenceMean(Metric):
    """A mean over sequences."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    sequences: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum", persistent=True)
        self.add_state("sequences", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum", persistent=True)

    def _add(self, values: Tensor) -> None:
        self.total += values.detach().to(self.total).sum()
        self.sequences += values.numel()

    @override
    def compute(self) -> Tensor:
        """The mean, a scalar; nan without any sequence."""
        return (self.total / self.sequences).float()

    @override
    def set_dtype(self, dst_type: Any) -> _SequenceMean:
        """Sums stay float64."""
        return self


class RepetitionShare(_SequenceMean):
    """Mean over sequences of the share of n-grams that stood before in the same one, ``1 - distinct / all``.

    Args:
        order: n of the n-grams.
        options: Of :class:`torchmetrics.Metric`.

    Returns of ``compute``: float32 scalar in [0, 1).

    Example:
        >>> metric = RepetitionShare(order=2)
        >>> metric.update(torch.tensor([[5, 6, 5, 6, 5, 6], [1, 2, 3, 0, 0, 0]]), lengths=torch.tensor([6, 3]))
        >>> metric.compute()
        tensor(0.3000)
    """

    def __init__(self, order: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.order = check_integer("order", order, at_least=1)

    @override
    def update(self, ids: Tensor, lengths: Tensor) -> None:
        """Add sequences.

        Args:
            ids: Token ids, padded on the right, [N, T].
            lengths: Tokens of each, [N].
        """
        rows = zip(ids.tolist(), lengths.tolist(), strict=True)
        self._add(torch.tensor([repetition_share(row[:length], self.order) for row, length in rows]))


class SequenceKL(_SequenceMean):
    """Mean over sequences drawn from p of the estimated ``KL(p‖q)`` of whole sequences, in nats.

    A sequence's estimate is the sum over its tokens of ``k1 = log p - log q`` or ``k3 = q/p - log(q/p) - 1``. Both are
    unbiased; k3 is never negative. Whoever drew the sequences is p: with the base model's own completions it is the
    forward KL(base‖policy), with the policy's the reverse one.

    Args:
        kind: ``k1`` or ``k3``.
        options: Of :class:`torchmetrics.Metric`.

    Returns of ``compute``: float32 scalar.

    Example:
        >>> metric = SequenceKL()
        >>> p, q = torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log(), torch.tensor([[0.5, 0.25], [0.25, 1.0]]).log()
        >>> metric.update(p, q, mask=torch.tensor([[True, True], [True, False]]))
        >>> metric.compute()  # (log 2 + 0) / 2
        tensor(0.3466)
    """

    def __init__(self, kind: Literal["k1", "k3"] = "k1", **options: Any) -> None:
        super().__init__(**options)
        if kind not in ("k1", "k3"):
            raise ValueError(f"kind must be k1 or k3, got {kind!r}")
        self.kind: Literal["k1", "k3"] = kind

    @override
    def update(self, logprobs: Tensor, other_logprobs: Tensor, mask: Tensor | None = None) -> None:
        """Add sequences.

        Args:
            logprobs: log p of the tokens, [N, T].
            other_logprobs: log q of the same tokens, [N, T].
            mask: True at the tokens of a sequence, [N, T]; what stands elsewhere does not matter.
        """
        penalty = kl_penalty(logprobs.detach(), other_logprobs.detach(), self.kind, mask=mask)
        self._add(fill_masked(penalty, mask).sum(-1))
