"""The figures of a report: one file per group, each drawn from plain numbers."""

from __future__ import annotations

from lit_sdpo.report.charts.chart import Chart, Missing, Table

__all__ = ["Chart", "Missing", "Table"]
