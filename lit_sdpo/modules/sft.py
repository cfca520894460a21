"""Supervised fine-tuning on the tasks' reference answers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.rollouts.types import LossBatch


class SFT(OnPolicyModule):
    r"""Maximum likelihood of the reference answers, :math:`\ell = -\log \pi(y_t \mid x, y_{<t})`.

    The baseline that has an oracle: it learns from answers that the other methods never see. It runs on the same windows
    and loss weights; one completion, the reference, stands in the place of each prompt's rollouts.
    """

    learns_from: Literal["policy", "reference"] = "reference"

    def token_losses(self, batch: LossBatch) -> Tensor:
        """Cross-entropy per token, [M]."""
        targets = batch.completion_ids[batch.completion_mask]
        return torch.nn.functional.cross_entropy(self.token_logits(batch), targets, reduction="none")
