"""The verifier's own scores, apart from every other reward: they alone say whether a completion is a success."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_sdpo.rewards.base import Verdict


def verifier_scores(verdicts: Sequence[Verdict], device: torch.device | str | None = None) -> Tensor:
    """What a verifier gave each of N completions, float32 [N]; nan where it abstained or gave no finite number.

    A completion is a success where this is at least a threshold, which nan never is. Further rewards, their weights and
    the verifier's own weight among them change nothing.

    Args:
        verdicts: The N verdicts.
        device: Of the result.

    Example:
        >>> verifier_scores([Verdict(1.0), Verdict(None), Verdict(0.25)])
        tensor([1.0000,    nan, 0.2500])
    """
    scores = [math.nan if verdict.score is None else float(verdict.score) for verdict in verdicts]
    found = torch.tensor(scores, dtype=torch.float32, device=device)
    return found.masked_fill(found.isinf(), math.nan)
