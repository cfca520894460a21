"""torchmetrics classes over :mod:`lit_sdpo.functional`."""

from __future__ import annotations

from lit_sdpo.metrics.continual import RetentionMatrix, TransitionShares
from lit_sdpo.metrics.items import ItemAccuracy, PassAtK
from lit_sdpo.metrics.sequences import RepetitionShare, SequenceKL

__all__ = ["ItemAccuracy", "PassAtK", "RepetitionShare", "RetentionMatrix", "SequenceKL", "TransitionShares"]
