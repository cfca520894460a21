"""The paper's claims, judged from runs."""

from __future__ import annotations

from lit_sdpo.report.claims.paper import CLAIMS, SETTINGS, check_claims
from lit_sdpo.report.claims.phase import PHASE_CLAIMS, PhaseCell, PhaseMap, phase_map
from lit_sdpo.report.claims.table import Claim, ClaimResult, Contrast, Crossing, PartResult, Verdict, check, judge

__all__ = [
    "CLAIMS",
    "PHASE_CLAIMS",
    "SETTINGS",
    "Claim",
    "ClaimResult",
    "Contrast",
    "Crossing",
    "PartResult",
    "PhaseCell",
    "PhaseMap",
    "Verdict",
    "check",
    "check_claims",
    "judge",
    "phase_map",
]
