"""Where the claims hold, over learning rate, ratio, world and length of stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lit_sdpo.report.charts.chart import Chart, Missing, Table
from lit_sdpo.report.charts.draw.phase import Panel, Spot, phase_diagram
from lit_sdpo.report.claims.phase import PhaseCell, PhaseMap
from lit_sdpo.report.claims.table import DOES_NOT, REPLICATES, ClaimResult, PartResult

TITLE = "Where each claim holds"
COLUMNS = (
    *("claim", "world", "stages", "steps", "lr", "ratio", "verdict"),
    *("statement", "estimate", "low", "high", "seeds"),
)


def phases(found: PhaseMap, name: str = "phase-diagram") -> Chart | Missing:
    """The phase diagram of a sweep.

    Args:
        found: From :func:`~lit_sdpo.report.claims.phase.phase_map`.
        name: Stem of its files.
    """
    groups: dict[tuple[str, str], list[PhaseCell]] = {}
    for cell in found.cells:
        groups.setdefault((cell.result.claim.id, cell.result.claim.sentence), []).append(cell)
    # A claim that no cell can test says nothing about where it holds.
    groups = {key: cells for key, cells in groups.items() if any(_decisive(cell.result) for cell in cells)}
    if max(map(len, groups.values()), default=0) < 2:
        why = (
            "the runs have one learning rate, world and length of stages: a map needs runs of the methods at several, "
            "from a sweep over model.init_args.optimizer.init_args.lr, data.init_args.world or data.init_args.steps"
        )
        return Missing(name, TITLE, why)
    places = {(cell.world, cell.stages, cell.steps) for cells in groups.values() for cell in cells}
    varying = [k for k in range(3) if len({place[k] for place in places}) > 1]
    panels, rows = [], []
    for (claim, sentence), cells in groups.items():
        spots = {(_rate(cell), _place(cell, varying)): _spot(cell.result) for cell in cells}
        x, y = (list(dict.fromkeys(pair[k] for pair in spots)) for k in (0, 1))
        measured = next((p for cell in cells if (p := _decisive(cell.result))), None)
        what = f"; in the cells: {measured.part.measure.title}" if measured and len(cells[0].result.parts) == 1 else ""
        panels.append(Panel(f"{claim}: {sentence.rstrip('.')}{what}", x, y, spots))
        for cell in cells:
            spot = _spot(cell.result)
            part = _decisive(cell.result)
            row = [claim, cell.world, cell.stages, cell.steps, cell.lr, cell.ratio, spot.verdict]
            rows.append([*row, part.part.says if part else "", spot.estimate, spot.low, spot.high, spot.seeds])
    verdicts = [row[6] for row in rows]
    held, failed = verdicts.count(REPLICATES), verdicts.count(DOES_NOT)
    return Chart(
        name,
        TITLE,
        f"Of {len(rows)} cells {held} replicate, {failed} do not, the rest is undecided or not tested.",
        "A cell is one claim at one learning rate of SDPO (across; 'GRPO same' or 'GRPO /10' is GRPO's rate) in one "
        "world (up): sign of the verdict, estimate of the statement that decides it, its 95 % interval over seeds and "
        "prompts, and the seeds. The paper has one such cell, at a ratio of ten.",
        "A grid of cells per claim with verdict, estimate and interval.",
        Table(COLUMNS, rows),
        phase_diagram(panels, xlabel="learning rate of SDPO", ylabel="world and stages" if varying else ""),
    )


def _rate(cell: PhaseCell) -> str:
    if cell.ratio is None:
        return f"{cell.lr:g}"
    return f"{cell.lr:g}\nGRPO {'same' if cell.ratio == 1 else f'/{cell.ratio}'}"


def _place(cell: PhaseCell, varying: Sequence[int]) -> str:
    parts = (cell.world, cell.stages, f"{cell.steps} steps a stage")
    return "\n".join(part for k in varying for part in parts[k].split(", ") if part)


def _decisive(result: ClaimResult) -> PartResult | None:
    """The statement that decides a claim: the first with its verdict."""
    known = [part for part in result.parts if not part.effect.missing]
    return next((part for part in known if part.verdict == result.verdict), known[0] if known else None)


def _spot(result: ClaimResult) -> Spot:
    part = _decisive(result)
    if part is None:
        return Spot(result.verdict)
    found = part.effect
    low, high = (x if math.isfinite(x) else math.nan for x in (found.low, found.high))
    return Spot(result.verdict, found.value, low, high, found.seeds)
