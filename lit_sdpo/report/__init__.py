"""Tables and figures of a run."""

from __future__ import annotations

from lit_sdpo.report.figures import heat_map
from lit_sdpo.report.tables import Matrix, MatrixRow

__all__ = ["Matrix", "MatrixRow", "heat_map"]
