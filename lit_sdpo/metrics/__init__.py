"""torchmetrics classes over :mod:`lit_sdpo.functional`."""

from __future__ import annotations

from lit_sdpo.metrics.items import ItemAccuracy

__all__ = ["ItemAccuracy"]
