"""torchmetrics classes over :mod:`lit_sdpo.functional`."""

from __future__ import annotations

from lit_sdpo.metrics.continual import RetentionMatrix, TransitionShares
from lit_sdpo.metrics.curves import (
    AverageMinAccuracy,
    LearningCurveArea,
    MinAccuracy,
    StabilityGap,
    WindowedForgetting,
    WindowedPlasticity,
    WorstCaseAccuracy,
)
from lit_sdpo.metrics.items import ItemAccuracy, PassAtK
from lit_sdpo.metrics.sequences import RepetitionShare, SequenceKL

__all__ = [
    "AverageMinAccuracy",
    "ItemAccuracy",
    "LearningCurveArea",
    "MinAccuracy",
    "PassAtK",
    "RepetitionShare",
    "RetentionMatrix",
    "SequenceKL",
    "StabilityGap",
    "TransitionShares",
    "WindowedForgetting",
    "WindowedPlasticity",
    "WorstCaseAccuracy",
]
