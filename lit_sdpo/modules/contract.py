"""What a module is to have so that completions are made for it: the seam between a method and its callbacks."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
from transformers import PreTrainedTokenizerBase

from lit_sdpo.functional.reduce import Aggregation
from lit_sdpo.rollouts.types import LossBatch, Rollouts


class RolloutModule(pl.LightningModule):
    """A module whose batches :class:`~lit_sdpo.callbacks.RolloutCallback` fills with completions of its policy.

    Most methods derive from :class:`~lit_sdpo.OnPolicyModule`, which does all of this. One on a base of its own derives
    from this class and sets ``policy`` and ``tokenizer``; what else it does not set has a default that is safe. Its
    ``prepare_rollouts`` adds a part to the window for each sum of losses that it has: which tokens count (``active``,
    [N, T]) and which rows can have a gradient (``contributes``, [N]). ``training_step`` then finds the slice whose turn
    it is in ``batch.loss``, and in each of its parts every token's weight w [n, t], so that

    ``loss = Σ_parts Σ_tokens w · token loss · batch.slots · trainer.world_size``

    where Lightning divides by the last two.
    """

    #: The causal language model that is trained, from ``configure_model`` on; ``None`` before.
    policy: Any
    #: Its tokenizer.
    tokenizer: PreTrainedTokenizerBase
    #: What completions are trained on: the policy's own, or the rows' reference answers.
    learns_from: Literal["policy", "reference"] = "policy"
    #: How token losses become one number.
    aggregation: Aggregation = "token_mean"
    #: Further arguments of the chat template.
    chat_template_options: dict[str, Any] | None = None
    #: Whether the optimizer keeps float32 copies of trained weights that are stored in fewer bits.
    float32_masters: bool = False

    def prepare_rollouts(self, rollouts: Rollouts) -> LossBatch:
        """The rows of a window with a part for each sum of losses; here all rows and no part, so no loss."""
        return LossBatch.of(rollouts)

    @property
    def learns_from_replay(self) -> bool:
        """Whether completions to earlier tasks' prompts have a part in its loss."""
        return False

    @property
    def log_due(self) -> bool:
        """Whether loggers get the values of this optimizer step; what is costly to compute need not be otherwise."""
        return bool(self.trainer._logger_connector.should_update_logs)
