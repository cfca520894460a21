"""Scores of distinct items, whatever the samplers did to make ranks even."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lit_sdpo.functional import pass_at_k
from lit_sdpo.ranges import check_integer, check_number


class ItemMetric(Metric):
    """What the metrics of items share: every sample of every item, once.

    A distributed sampler repeats items to give every rank the same number. A pair (item, sample) therefore counts once,
    however often and on whichever rank it comes; its first score is kept. A score of nan abstains: it is left out, and
    so is an item that has no other score. The scores are in checkpoints of the module that the metric belongs to.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    index: list[Tensor] | Tensor
    sample: list[Tensor] | Tensor
    score: list[Tensor] | Tensor

    _TYPES: ClassVar = {"index": torch.int64, "sample": torch.int64, "score": torch.float32}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in self._TYPES:
            self.add_state(name, default=[], dist_reduce_fx="cat", persistent=True)

    @override
    def update(self, index: Tensor, sample: Tensor, score: Tensor) -> None:
        """Add scores.

        Args:
            index: Number of the item, the same on every rank, int64 [B].
            sample: Number of the sample of its item, int64 [B].
            score: Usually in [0, 1]; nan abstains, [B].

        Raises:
            ValueError: If the three do not have one and the same length.
        """
        if not index.shape == sample.shape == score.shape or index.dim() != 1:
            shapes = [list(x.shape) for x in (index, sample, score)]
            raise ValueError(f"index, sample and score must be [B], got {shapes}")
        for name, value in zip(self._TYPES, (index, sample, score), strict=True):
            getattr(self, name).append(value.detach().to(self._TYPES[name]))

    def item_scores(self) -> dict[int, float]:
        """Mean score of each item over all ranks, by item number. All ranks must call it together."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            items, means = self._means()
        return dict(zip(items.tolist(), means.tolist(), strict=True))

    def sample_scores(self) -> dict[int, list[float]]:
        """Score of each sample of each item, by item number, ordered by sample. All ranks must call it together."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            items, place, scores = self._samples()
        parts = scores.split(place.bincount(minlength=len(items)).tolist())
        return {item: part.tolist() for item, part in zip(items.tolist(), parts, strict=True)}

    def _samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct items, ascending, [I]; the place among them of each distinct sample, [S], and its score, [S]."""
        self._fill_empty()
        index, sample, score = (dim_zero_cat(getattr(self, name)) for name in self._TYPES)
        known = ~score.isnan()
        pairs, place = torch.stack([index, sample], 1)[known].unique(dim=0, return_inverse=True)
        order = torch.arange(len(place), device=place.device)
        # The first occurrence of each pair.
        first = order.new_full((len(pairs),), len(place)).scatter_reduce(0, place, order, "amin")
        items, place = pairs[:, 0].unique(return_inverse=True)
        return items, place, score[known][first]

    def _sums(self, values: Tensor, place: Tensor, size: int) -> Tensor:
        return torch.zeros(size, device=values.device).index_add(0, place, values)

    def _means(self) -> tuple[Tensor, Tensor]:
        """Distinct items, ascending, and their mean scores, [I] and [I]."""
        items, place, score = self._samples()
        return items, self._sums(score, place, len(items)) / place.bincount(minlength=len(items))

    @override
    def sync(self, *args: Any, **options: Any) -> None:
        self._fill_empty()
        super().sync(*args, **options)

    def _fill_empty(self) -> None:
        """Give a rank without data empty tensors of the right type: gathering needs one type on all ranks."""
        for name, kind in self._TYPES.items():
            if isinstance(state := getattr(self, name), list) and not state:
                state.append(torch.empty(0, dtype=kind, device=self.device))


class ItemAccuracy(ItemMetric):
    """Mean over items of the mean score of each item's samples: avg@k.

    With ``S[i]`` the distinct samples of item i that were scored::

        accuracy = mean_i mean_{s in S[i]} score[i, s]

    Returns of ``compute``: the accuracy, float32 scalar; nan without any score.

    Example:
        >>> from torch import tensor
        >>> metric = ItemAccuracy()
        >>> metric.update(index=tensor([0, 0, 1, 1]), sample=tensor([0, 1, 0, 1]), score=tensor([1.0, 0.0, 1.0, 1.0]))
        >>> metric.update(index=tensor([1]), sample=tensor([0]), score=tensor([1.0]))  # a sampler's repetition
        >>> metric.compute()
        tensor(0.7500)
        >>> metric.item_scores()
        {0: 0.5, 1: 1.0}
    """

    @override
    def compute(self) -> Tensor:
        """The accuracy, a scalar."""
        return self._means()[1].mean()


class PassAtK(ItemMetric):
    """Mean over items of the chance that one of k samples solves it (arXiv 2107.03374).

    With ``n[i]`` distinct samples of item i, ``c[i]`` of them with a score of at least ``threshold``::

        pass_at_k = mean_i 1 - C(n[i] - c[i], k) / C(n[i], k)

    Args:
        k: At least 1; every item needs as many samples.
        threshold: Score from which a sample counts as right.
        options: Of :class:`torchmetrics.Metric`.

    Returns of ``compute``: float32 scalar; nan without any score.

    Raises:
        ValueError: In ``compute``, if an item has fewer than k samples.

    Example:
        >>> from torch import tensor
        >>> metric = PassAtK(k=2)
        >>> metric.update(tensor([0, 0, 0, 1, 1]), tensor([0, 1, 2, 0, 1]), tensor([1.0, 0.0, 0.0, 0.0, 0.0]))
        >>> metric.compute()
        tensor(0.3333)
    """

    def __init__(self, k: int, threshold: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.k = check_integer("k", k, at_least=1)
        self.threshold = check_number("threshold", threshold, at_least=0)

    @override
    def compute(self) -> Tensor:
        """Pass@k, a scalar."""
        items, place, score = self._samples()
        correct = self._sums((score >= self.threshold).float(), place, len(items))
        return pass_at_k(correct, place.bincount(minlength=len(items)), self.k).mean()
