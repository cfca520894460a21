"""All figures of a study, in the order of the page."""

from __future__ import annotations

from lit_sdpo.report.charts.chart import Chart, Missing
from lit_sdpo.report.charts.responses import artifacts, similarity
from lit_sdpo.report.charts.retention import by_task_learned, out_of_domain, ranks
from lit_sdpo.report.charts.streams import streams
from lit_sdpo.report.charts.trade_off import speed_and_retention
from lit_sdpo.report.charts.training import dynamics, weight_drift
from lit_sdpo.report.charts.transfer import against_mmd
from lit_sdpo.report.study import Study


def gallery(study: Study) -> list[Chart | Missing]:
    """Every figure, or what would be needed for it; those of the stream with most runs first."""
    found: list[Chart | Missing] = []
    for stream in streams(study):
        found += [by_task_learned(stream), out_of_domain(stream), ranks(stream)]
        found += [speed_and_retention(stream), dynamics(stream), against_mmd(stream)]
        found += [weight_drift(stream), similarity(stream), *artifacts(stream)]
    return found
