"""Objectives as sums of terms: ``loss = Σ_terms coefficient · Σ_tokens weights · losses``.

A term says which tokens of the rollouts it is about (:meth:`Term.prepare`) and what each costs (:meth:`Term.losses`).
A method is a module with one or more terms; a new method is a new combination, or one new term.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from lit_sdpo.functional import importance_clip, token_logprobs_from_logits
from lit_sdpo.functional.precision import tempered
from lit_sdpo.modules.taught import taught
from lit_sdpo.policies.copies import FixedWeights
from lit_sdpo.policies.scoring import Scorer, completion_hidden, read_logits, scattered
from lit_sdpo.policies.sharding import is_sharded
from lit_sdpo.ranges import check_number
from lit_sdpo.rollouts.mismatch import CAP
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class RowRatios(NamedTuple):
    """What a loss with one ratio for each row needs to know of it, float32 [N] each, without gradient.

    Attributes:
        log_ratios: Mean over the row's tokens of ``log π - log π_old``.
        engine_weights: Mean of the tokens' weights for the difference between engine and policy.
    """

    log_ratios: Tensor
    engine_weights: Tensor


class Slice:
    """The rows of one micro-batch, and what other models than the policy say of them; each is asked once.

    Attributes:
        module: The method.
        batch: The rows.
        ids: The completion tokens, int64 [M], in row-major order of the mask.
        rows: The row of each, int64 [M].
        columns: Its place in the row, int64 [M].
        row_ratios: What :meth:`read_rows` has found; ``None`` where no term asks for it.
    """

    def __init__(self, module: OnPolicyModule, batch: LossBatch) -> None:
        self.module, self.batch = module, batch
        self.mask = batch.completion_mask
        self.ids = batch.completion_ids[self.mask]
        self.rows, self.columns = self.mask.nonzero(as_tuple=True)
        self._scorers: dict[int, Scorer] = {}
        self.row_ratios: RowRatios | None = None

    def read_rows(self) -> None:
        """Know each row's ratio before the loss is built: a loss sees chunks of tokens, and rows cross their borders.

        It takes one more product with the head, but none in the first update of what the policy itself sampled, where
        all ratios are 1.
        """
        log_ratios = torch.zeros(len(self.ids), device=self.ids.device)
        weights = torch.ones_like(log_ratios)

        def read(logits: Tensor, span: slice) -> None:
            tokens = Tokens(self, span, logits)
            tokens.meet_first()
            log_ratios[span], weights[span] = tokens.logprobs - tokens.old_logprobs, tokens.engine_weights

        if not self.batch.fresh or self.batch.mismatch is not None:
            read_logits(self.module.policy, self.hidden, read)
        self.row_ratios = RowRatios(self._row_means(log_ratios), self._row_means(weights))

    def _row_means(self, values: Tensor) -> Tensor:
        sums = values.new_zeros(len(self.batch)).index_add_(0, self.rows, values)
        return sums / self.mask.sum(1).clamp(min=1)

    @cached_property
    def hidden(self) -> Tensor:
        """The policy's hidden states, [M, D], with gradient."""
        return completion_hidden(self.module.policy, self.batch.sequences)

    @cached_property
    def teacher(self) -> Scorer:
        """The teacher's predictions; only rows with a context are asked for, the others read zeros."""
        batch = self.batch
        prompts = batch.teacher_prompt_ids or [None] * len(batch)
        known = [n for n, prompt in enumerate(prompts) if prompt is not None]
        if not known and is_sharded(self.module.policy):  # the others' forward passes need this process
            known, prompts = [0], [batch.prompt_ids[0], *prompts[1:]]
        if not known:
            return lambda span: self.hidden.new_zeros(len(self.ids[span]), 1)
        rows = batch.select(known)
        sequences = replace(rows.sequences, prompt_ids=[prompt for prompt in prompts if prompt is not None])
        score = taught(self.module).teacher.scorer(self.module.policy, sequences)
        if len(known) == len(batch):
            return score
        return scattered([(torch.isin(self.rows, torch.tensor(known, device=self.rows.device)), score)])

    def scored_by(self, weights: FixedWeights, rows: Tensor | None = None) -> Scorer:
        """Predictions of other weights after the student's own prompt.

        Args:
            weights: Asked once; the same rows count from then on.
            rows: Which rows are asked about, bool [N]; the others read zeros. ``None`` asks about all.
        """
        if id(weights) not in self._scorers:
            self._scorers[id(weights)] = self._scorer(weights, rows)
        return self._scorers[id(weights)]

    def _scorer(self, weights: FixedWeights, rows: Tensor | None) -> Scorer:
        policy, sequences = self.module.policy, self.batch.sequences
        if rows is None or bool(rows.all()):
            return weights.scorer(policy, sequences)
        asked = rows.nonzero()[:, 0].tolist()
        if not asked and not is_sharded(policy):
            return lambda span: self.hidden.new_zeros(len(self.ids[span]), 1)
        # The others' forward passes need this process, if need be with a row that does not count.
        return scattered([(rows[self.rows], weights.scorer(policy, sequences.select(asked or [0])))])


class Tokens:
    """Some completion tokens of a slice, with the policy's logits.

    Attributes:
        slice: The slice.
        span: Which of its M tokens these are.
        logits: The policy's, float32 [m, V], at the sampling temperature, with gradient.
        ids: What was sampled, int64 [m].
        rows: Row of each token in the slice, int64 [m].
        columns: Its place in the row, int64 [m].
    """

    def __init__(self, slice_: Slice, span: slice, logits: Tensor) -> None:
        self.slice, self.span = slice_, span
        self.temperature = slice_.batch.temperature or 1.0
        self.logits = tempered(logits, self.temperature)
        self.ids, self.rows, self.columns = slice_.ids[span], slice_.rows[span], slice_.columns[span]

    @cached_property
    def logprobs(self) -> Tensor:
        """The policy's log-probability of each sampled token, [m], with gradient."""
        return token_logprobs_from_logits(self.logits, self.ids)

    @cached_property
    def old_logprobs(self) -> Tensor:
        """The same before the window's first update; in that update it is now, to the last digit.

        Where ratios are against the engine, its own are raised where the ratio to them would exceed the cap of
        mismatch weights: a clip alone leaves that of a token with a negative advantage without a bound.
        """
        if self._old is None:
            return self.logprobs.detach()
        if self._against_engine:
            return torch.maximum(self._old, self.logprobs.detach() - math.log(CAP))
        return self._old

    @property
    def engine_weights(self) -> Tensor:
        """Weight of each token for the difference between engine and policy, [m]; 1 where the policy itself sampled."""
        batch = self.slice.batch
        if batch.mismatch is None:
            return torch.ones(len(self.ids), device=self.ids.device)
        return self.of(batch.engine_weights)

    def importance(self, clip: float) -> Tensor:
        """``min(π / π_old, clip)`` of each sampled token times its engine weight, [m], without gradient.

        1 in the first update of what the policy itself sampled.
        """
        if self._old is None:
            return self.engine_weights
        return importance_clip(self.logprobs, self._old, clip) * self.engine_weights

    def meet_first(self) -> None:
        """In a window's first update, once: compare the policy with the engine, and keep what ratios are against.

        The sampler's own log-probabilities would not do: it rounds in other places than an update (in bfloat16 they
        differ by about 1e-2), and a ratio is to be 1 until the policy has changed.
        """
        batch, place = self.slice.batch, (self.rows, self.columns)
        if not batch.fresh:
            return
        if batch.mismatch is not None:
            if self.slice.row_ratios is not None:  # compared, and counted, when the rows were read
                return
            found = batch.mismatch.compare(self.logits, self.ids, self.logprobs, self.of(batch.sampled_logprobs))
            batch.old_logprobs[place], batch.engine_weights[place] = found
        elif batch.reused:
            batch.old_logprobs[place] = self.logprobs.detach()

    @property
    def _against_engine(self) -> bool:
        mismatch = self.slice.batch.mismatch
        return mismatch is not None and mismatch.correction == "ratio"

    @cached_property
    def _old(self) -> Tensor | None:
        """What ratios are against, [m]; ``None`` where that is the policy of now."""
        batch = self.slice.batch
        return None if batch.fresh and not self._against_engine else self.of(batch.old_logprobs)

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits at the same temperature, [m, V] without gradient; zeros for rows without a context."""
        found = tempered(self.slice.teacher(self.span), self.temperature)
        return found if found.shape == self.logits.shape else torch.zeros_like(self.logits)

    @cached_property
    def target(self) -> Tensor:
        """Logits that a distillation moves towards, [m, V]: the teacher's, unless a term puts others here."""
        return self.teacher_logits

    def logits_of(self, weights: FixedWeights, rows: Tensor | None = None) -> Tensor:
        """Other weights' logits after the student's prompt, [m, V], without gradient.

        Args:
            weights: The other weights.
            rows: Rows of the slice that are asked about, bool [N], the same ones each time; the others read zeros.
        """
        found = tempered(self.slice.scored_by(weights, rows)(self.span), self.temperature)
        return found.expand_as(self.logits)

    def of(self, values: Tensor) -> Tensor:
        """The entries of per-row [N] or per-token [N, T] values that belong to these tokens, [m]."""
        return values[self.rows] if values.dim() == 1 else values[self.rows, self.columns]


class Term(nn.Module):
    """One term of an objective.

    Args:
        coefficient: Factor of the term in the loss.
    """

    #: Name of its part of the batch.
    name = "term"

    #: Whether its losses need :attr:`Slice.row_ratios`: a ratio of whole rows.
    whole_rows = False

    #: Whether it is about completions to other prompts than the stage's, which the data module's ``replay_share`` adds.
    replays = False

    def __init__(self, coefficient: float = 1.0) -> None:
        super().__init__()
        self.coefficient = check_number("coefficient", coefficient, at_least=0)

    @abstractmethod
    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """Say which tokens the term is about. All ranks call it at the same time."""

    @abstractmethod
    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The cost of each token, [m]. What stands at tokens of weight 0 does not matter, as long as it is finite."""

    def attach(self, module: OnPolicyModule) -> None:
        """The module has loaded its policy."""

    def start_stage(self, module: OnPolicyModule) -> None:
        """A later stage begins."""

    def after_optimizer_step(self, module: OnPolicyModule) -> None:
        """The policy has changed."""

    def factor(self, step: int) -> float:
        """The coefficient at an optimizer step."""
        return self.coefficient


def rewarded_rows(rollouts: Rollouts) -> Tensor:
    """Rows of the current task that got a reward, bool [N]; without one there is nothing to reinforce."""
    return rollouts.own & ~rollouts.rewards.isnan()


def scored_rows(rollouts: Rollouts) -> Tensor:
    """Rows of the current task that the verifier scored, bool [N]; where it abstained, nothing is distilled."""
    return rollouts.own & ~rollouts.scores.isnan()


class Replay(Term):
    """Maximum likelihood of verified completions to earlier tasks' prompts (on-policy replay, arXiv:2605.29495).

    Args:
        coefficient: Factor in the loss.
        success_threshold: Smallest score of the verifier that counts as a success.
    """

    name = "replay"
    replays = True

    def __init__(self, coefficient: float, success_threshold: float = 1.0) -> None:
        super().__init__(coefficient)
        self.success_threshold = check_number("success_threshold", success_threshold, above=0)

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """Rows of earlier tasks that succeeded."""
        rows = rollouts.successes(self.success_threshold) & ~rollouts.own
        return TermTokens(active=batch.completion_mask & rows[:, None], contributes=rows)

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """Negative log-probability of the tokens."""
        return -tokens.logprobs
