"""Tables and figures of a run."""

from __future__ import annotations

from lit_sdpo.report.figures import accuracy_by_stage, heat_map
from lit_sdpo.report.tables import Matrix, MatrixRow

__all__ = ["Matrix", "MatrixRow", "accuracy_by_stage", "heat_map"]
