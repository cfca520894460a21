"""What a report shows of a study: everything that is compared is compared within a stream and a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_sdpo.report.charts.chart import Chart, Missing
from lit_sdpo.report.charts.gallery import gallery
from lit_sdpo.report.charts.phases import phases
from lit_sdpo.report.charts.retention import matrices
from lit_sdpo.report.charts.streams import Stream, streams
from lit_sdpo.report.claims import ClaimResult, PhaseMap, check_claims, phase_map
from lit_sdpo.report.comparisons import Comparison, Draws, Effect, compare, levels
from lit_sdpo.report.equal_success import EqualSuccess, all_at_equal_success
from lit_sdpo.report.study import Study


@dataclass(frozen=True)
class StreamFindings:
    """What the runs of one stream say.

    Attributes:
        stream: The runs.
        levels: Every measure of every method.
        comparisons: All pairs of methods.
        equal_success: Pairs of methods where they have learned alike.
        matrix: The scores after every stage.
    """

    stream: Stream
    levels: Mapping[str, Mapping[str, Effect]]
    comparisons: Sequence[Comparison]
    equal_success: Sequence[EqualSuccess]
    matrix: Chart


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows of a study.

    Attributes:
        study: The runs.
        streams: What those of each stream say, the one with most runs first.
        claims: What all say about the paper's claims.
        phase: Where the claims hold.
        figures: Figures, or what they would need.
    """

    study: Study
    streams: Sequence[StreamFindings]
    claims: Sequence[ClaimResult]
    phase: PhaseMap
    figures: Sequence[Chart | Missing]

    @property
    def charts(self) -> list[Chart]:
        """All figures that were drawn; the matrices come last."""
        drawn = [chart for chart in self.figures if isinstance(chart, Chart)]
        return [*drawn, *(found.matrix for found in self.streams)]


def investigate(study: Study, roles: Mapping[str, str] | None = None) -> Findings:
    """Judge the claims, compare the methods and draw the figures.

    Args:
        study: The runs.
        roles: Role in the claims to the method that plays it (:func:`~lit_sdpo.report.claims.check_claims`).
    """
    draws = Draws()
    phase = phase_map(study, draws=draws)
    return Findings(
        study=study,
        streams=[_of_stream(stream, draws) for stream in streams(study)],
        claims=check_claims(study, roles, draws),
        phase=phase,
        figures=[*gallery(study), phases(phase)],
    )


def _of_stream(stream: Stream, draws: Draws) -> StreamFindings:
    study = stream.study
    several = len(study.methods) > 1
    return StreamFindings(
        stream=stream,
        levels=levels(study, draws=draws),
        comparisons=compare(study, draws=draws) if several else [],
        equal_success=all_at_equal_success(study),
        matrix=matrices(stream),
    )
