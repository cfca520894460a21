"""What a method's losses make of a chunk of logits, watched on tensors without storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lit_sdpo.functional import chunked_loss
from lit_sdpo.modules.objective import Slice, Tokens
from lit_sdpo.policies.activations import Watch
from lit_sdpo.policies.copies import FixedWeights
from lit_sdpo.policies.scoring import Scorer, finish
from lit_sdpo.rollouts.types import LossBatch, TermTokens

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule

BLOCK = 2**16
"""Numbers of a loss that goes through its chunk in blocks; some of these have to fit the chunks that are watched."""


def logit_bytes(module: OnPolicyModule, temperature: float) -> int:
    """Bytes per token of a chunk: its logits and all that losses, their gradient and other models' logits make of them.

    Args:
        module: The method, with its policy.
        temperature: Of the losses.
    """
    half = 8 + 2 * BLOCK // len(module.policy.get_output_embeddings().weight)
    one, two = (_most(module, temperature, 2 * half, chunk) for chunk in (2 * half, half))
    return (one - two) // half


def _most(module: OnPolicyModule, temperature: float, count: int, chunk: int) -> int:
    policy = module.policy
    matrix = policy.get_output_embeddings().weight
    with FakeTensorMode(allow_non_fake_inputs=True):
        hidden = torch.empty(count, matrix.shape[1], dtype=policy.dtype, requires_grad=True)
        weight = torch.empty(matrix.shape, dtype=matrix.dtype)  # its gradient is no matter of tokens
        unseen = _Unseen(module, temperature, count)

        def losses(products: Tensor, span: slice) -> Tensor:
            tokens = Tokens(unseen, span, finish(policy, products))
            return module.token_losses(tokens, unseen.batch.parts, dict.fromkeys(module.terms, 1.0))  # type: ignore[no-any-return]

        watch, tally, module._tally = Watch([hidden, weight]), module._tally, {}
        try:
            with watch:
                chunked_loss(hidden, weight, torch.ones(count), losses, chunk_size=chunk)
        finally:
            module._tally = tally
    return max(watch.live)


class _Values(dict[str, Tensor]):
    """One number of each row under every name that a term may ask for."""

    def __missing__(self, name: str) -> Tensor:
        return torch.zeros(1)


class _Unseen(Slice):
    """One row of which only sizes are known."""

    def __init__(self, module: OnPolicyModule, temperature: float, count: int) -> None:
        self.module = module
        self.ids, self.rows = torch.zeros(2, count, dtype=torch.long)
        self.columns = torch.zeros_like(self.rows)
        self.mask = torch.ones(1, count, dtype=torch.bool)
        part = TermTokens(self.mask, torch.ones(1, dtype=torch.bool), values=_Values(), weights=torch.zeros(1, count))
        self.batch = LossBatch(
            prompt_ids=[[0]],
            completion_ids=self.ids[None],
            completion_mask=self.mask,
            old_logprobs=torch.zeros(1, count),
            parts=dict.fromkeys(module.terms, part),
            temperature=temperature,
        )

    @property
    def teacher(self) -> Scorer:  # type: ignore[override]
        """Logits like those of a model of the same vocabulary."""
        return self._logits

    def scored_by(self, weights: FixedWeights, rows: Tensor | None = None) -> Scorer:
        """The same."""
        return self._logits

    @torch.no_grad()
    def _logits(self, span: slice) -> Tensor:
        policy = self.module.policy
        rows = len(self.ids[span])
        return finish(policy, torch.empty(rows, policy.get_output_embeddings().weight.shape[0], dtype=policy.dtype))
