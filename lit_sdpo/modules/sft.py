"""Supervised fine-tuning on the tasks' reference answers."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.objective import Term, Tokens
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens


class Imitation(Term):
    r"""Maximum likelihood, :math:`\ell = -\log \pi(y_t \mid x, y_{<t})`."""

    name = "imitation"

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """Every token of every row."""
        everyone = torch.ones(len(batch), dtype=torch.bool, device=batch.completion_ids.device)
        return TermTokens(active=batch.completion_mask, contributes=everyone)

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """Negative log-probability of the tokens."""
        return -tokens.logprobs


class SFT(OnPolicyModule):
    """Supervised fine-tuning on the reference answers of the prompts.

    The baseline that has an oracle: it learns from answers that the other methods never see. It runs on the same
    windows and loss weights; one completion, the reference, stands in the place of each prompt's rollouts.

    Args:
        model_name: Model folder, Hub name, or ``micro``.
        **kwargs: Of :class:`OnPolicyModule`.
    """

    learns_from: Literal["policy", "reference"] = "reference"

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(model_name, **kwargs)
        self.add_term(Imitation())
