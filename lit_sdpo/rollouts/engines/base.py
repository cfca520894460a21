"""What a rollout engine is: how it is asked, what it answers, and what a run needs to know of it.

Letters in shapes: P prompts, G generations, N = P·G rows, T completion tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from lit_sdpo.errors import UserError
from lit_sdpo.functional.filters import TRANSFORMERS_ORDER, Filter
from lit_sdpo.ranges import check_integer, check_number


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn. The paper trains with the plain distribution.

    Attributes:
        max_new_tokens: Longest completion in tokens (the paper: 14,336).
        temperature: Divides the logits, 0.01 to 100; 0 takes the most likely token. Losses use the same temperature.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with at least this mass; 1 keeps all.
        min_p: Drop tokens below this share of the most likely token's probability; 0 keeps all.

    The native engine applies the filters in this order, each to what is left; see :attr:`RolloutEngine.filter_order`.
    """

    max_new_tokens: int = 14_336
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_integer("max_new_tokens", self.max_new_tokens, at_least=1)
        if self.temperature != 0:  # what is smaller divides logits into infinite ones
            check_number("temperature", self.temperature, at_least=0.01, at_most=100)
        check_integer("top_k", self.top_k)
        check_number("top_p", self.top_p, above=0, at_most=1)
        check_number("min_p", self.min_p, at_least=0, below=1)

    @property
    def filtered(self) -> bool:
        """Whether tokens may be cut off; at temperature 0 log-probabilities are those of the plain distribution.

        Example:
            >>> Sampling(top_k=5).filtered, Sampling(top_k=5, temperature=0).filtered
            (True, False)
        """
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


@dataclass
class Completions:
    """What an engine returns for N rows, in the order of the seeds it was given.

    Attributes:
        ids: Sampled tokens, right-padded, int64 [N, T]. An end token that was sampled is included.
        lengths: Tokens per row, int64 [N].
        logprobs: Log-probability of each sampled token under the distribution it was drawn from, float32 [N, T]; 0 at
            padding. With top-k, top-p or min-p that is the distribution after the filters, renormalised.
        finished: Whether the row ended with an end token rather than at ``max_new_tokens``, bool [N].
        log_kept_mass: Log of the probability that the filters kept at each token, under the whole distribution at the
            sampling temperature, float32 [N, T]; 0 without filters. ``logprobs + log_kept_mass`` are then
            log-probabilities of the whole distribution. ``None`` where the engine does not know it.
    """

    ids: Tensor
    lengths: Tensor
    logprobs: Tensor
    finished: Tensor
    log_kept_mass: Tensor | None = None

    def select(self, rows: Tensor | slice) -> Completions:
        """Some rows, in the given order."""
        kept = None if self.log_kept_mass is None else self.log_kept_mass[rows]
        return Completions(self.ids[rows], self.lengths[rows], self.logprobs[rows], self.finished[rows], kept)

    @classmethod
    def cat(cls, parts: Sequence[Completions], pad_id: int = 0) -> Completions:
        """Several completions of one engine, one after the other, filled up to the longest."""
        width = max(part.ids.shape[1] for part in parts)

        def wide(column: Tensor, value: int = 0) -> Tensor:
            return pad(column, (0, width - column.shape[1]), value=value)

        kept = [part.log_kept_mass for part in parts if part.log_kept_mass is not None]
        return cls(
            ids=torch.cat([wide(part.ids, pad_id) for part in parts]),
            lengths=torch.cat([part.lengths for part in parts]),
            logprobs=torch.cat([wide(part.logprobs) for part in parts]),
            finished=torch.cat([part.finished for part in parts]),
            log_kept_mass=torch.cat([wide(mass) for mass in kept]) if len(kept) == len(parts) else None,
        )


class Call(TypedDict):
    """Arguments of :meth:`RolloutEngine.generate` after the policy."""

    prompts: list[list[int]]
    num_generations: int
    sampling: Sampling
    seeds: Tensor
    end_ids: Sequence[int]
    pad_id: int


class Ahead(Protocol):
    """Completions that were asked for before they are needed; see :meth:`RolloutEngine.ahead`."""

    @property
    def seconds(self) -> float:
        """How long they took, once all are there."""

    def wait(self) -> list[Completions]:
        """Those of each call, once all are there; raises what went wrong meanwhile."""

    def drop(self) -> None:
        """Nobody wants them: leave nothing on its way."""


class RolloutEngine(ABC):
    """Samples completions from a policy. An engine is a subclass with :meth:`generate`; all else has a safe default.

    A subclass is named by its import path, ``rollout.engine.class_path: my_package.MyEngine``, and its arguments are
    those of its constructor. What :meth:`generate` has to give are tokens and, for each, its log-probability under the
    distribution that it was drawn from: after temperature and filters, renormalised. Left as they are, the attributes
    below say: another program drew these tokens, so weigh each by how far that program is from the policy, and ask it
    for nothing while weights change. ``docs/engines.md`` has an engine of 60 lines over Transformers' ``generate``.

    Example:
        >>> class Silent(RolloutEngine):
        ...     '''Ends every completion at once, as it is certain to do.'''
        ...
        ...     def generate(self, policy, prompts, *, num_generations, sampling, seeds, end_ids, pad_id):
        ...         rows = len(prompts) * num_generations
        ...         ids = torch.full((rows, 1), end_ids[0], device=seeds.device)
        ...         certain = torch.zeros(rows, 1, device=seeds.device)
        ...         return Completions(ids, torch.ones_like(seeds), certain, torch.ones_like(seeds, dtype=torch.bool))
        >>> Silent().mismatched
        True
    """

    #: Whether its probabilities are computed otherwise than those of the policy in an update: by another program, in
    #: another precision, or with older weights. If so, the policy is scored again when an update begins, ratios are
    #: against that score, and tokens weigh ``min(π / π_engine, 2)``; see ``docs/vllm.md``. ``False`` takes the
    #: engine's log-probabilities for the policy's own, which is right for a sampler that runs the policy itself; it
    #: then has to give :attr:`Completions.log_kept_mass` wherever filters are set.
    mismatched: bool = True

    #: The order in which it applies filters, each to what the ones before have left. ``top_p`` depends on it. The
    #: default is that of Transformers; the policy is filtered in the same order when it is compared with the engine.
    filter_order: Sequence[Filter] = TRANSFORMERS_ORDER

    #: Most completions whose keys and values it holds at once in this process's memory; ``None`` for all of a call.
    max_rows: int | None = None

    #: Whether it has weights of its own, so that :meth:`ahead` may draw while those of the policy change.
    can_ask_ahead: bool = False

    #: How it gives up its memory while it is not asked; ``None`` keeps it. One that sleeps cannot be asked ahead.
    sleep_level: int | None = None

    @abstractmethod
    def generate(
        self,
        policy: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        *,
        num_generations: int,
        sampling: Sampling,
        seeds: Tensor,
        end_ids: Sequence[int],
        pad_id: int,
    ) -> Completions:
        """Sample ``num_generations`` completions for each of P prompts.

        Args:
            policy: The model, in eval mode; the caller has set up autocast and no-grad.
            prompts: Token ids of the P prompts.
            num_generations: Completions per prompt, G.
            sampling: How tokens are drawn.
            seeds: One int64 seed per row, [P·G], row ``p * G + g``, on the policy's device. The token drawn at a
                position is to depend on its row's seed, the position and the distribution alone, as far as the engine
                can; global random states stay as they are.
            end_ids: Tokens that end a completion.
            pad_id: Fills ``ids`` beyond a row's length.

        Returns:
            The completions, row ``p * G + g`` being the g-th of prompt p, on the policy's device.
        """

    def holding(self, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Inside, all calls are on the same weights: the place to send or gather them once.

        All processes of a run enter and leave together, though each makes as many calls as it has prompts. The engine
        enters it in :meth:`generate` itself where it needs it, as callers need not.

        Args:
            policy: The policy whose weights they are.
        """
        return nullcontext()

    def ahead(self, policy: PreTrainedModel, calls: Sequence[Call]) -> Ahead:
        """Begin with some calls of :meth:`generate`, with the weights of now, and do not wait.

        Asked only where :attr:`can_ask_ahead` is true. Weights never change within a completion: the next
        :meth:`holding` waits for what is on its way.

        Args:
            policy: The policy whose weights are to be used.
            calls: The further arguments of each call.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be asked ahead")

    def leave(self) -> None:  # noqa: B027 (most engines share nothing)
        """The run is over or has failed: leave what others share as they can use it. May be called more than once."""


def checked(engine: RolloutEngine, drawn: Completions, call: Call) -> Completions:
    """What an engine has answered, if it is what losses can use: wrong shapes and numbers would train in silence.

    Args:
        engine: The engine.
        drawn: Its answer.
        call: What it was asked.

    Raises:
        UserError: Shapes do not fit the call, a log-probability is not finite or above 0, or the kept mass is missing.
    """
    rows = len(call["prompts"]) * call["num_generations"]
    shape, lengths = tuple(drawn.ids.shape), drawn.lengths
    logs = [drawn.logprobs] if drawn.log_kept_mass is None else [drawn.logprobs, drawn.log_kept_mass]
    problem = None
    if len(shape) != 2 or shape[0] != rows or tuple(lengths.shape) != (rows,) or tuple(drawn.finished.shape) != (rows,):
        problem = f"ids of shape {shape} and lengths of shape {tuple(lengths.shape)} for {rows} rows"
    elif any(tuple(log.shape) != shape for log in logs):
        problem = f"log-probabilities of shape {tuple(logs[-1].shape)} for ids of shape {shape}"
    elif rows and not (int(lengths.min()) >= 1 and int(lengths.max()) <= shape[1]):
        problem = f"lengths from {int(lengths.min())} to {int(lengths.max())} for ids of shape {shape}"
    elif not all(_are_logs(log, lengths) for log in logs):
        problem = "log-probabilities that are above 0, infinite or nan"
    elif call["sampling"].filtered and not engine.mismatched and drawn.log_kept_mass is None:
        problem = "no log_kept_mass under filters, without which its log-probabilities are not the policy's"
    if problem is None:
        return drawn
    raise UserError(
        f"{type(engine).__name__}.generate has returned {problem}",
        where="rollout.engine",
        fix="the docstrings of lit_sdpo.RolloutEngine and lit_sdpo.Completions say what an engine returns",
    )


def _are_logs(values: Tensor, lengths: Tensor) -> bool:
    """Whether they can be logarithms of probabilities; what stands behind a completion does not matter."""
    beyond = torch.arange(values.shape[1], device=values.device) >= lengths[:, None]
    right = values.isfinite() & (values < 1e-3)  # rounding may leave a little above 0
    return bool((right | beyond).all())


def __getattr__(name: str) -> Any:
    if name == "NativeEngine":  # where it was: configurations and code name it so
        from lit_sdpo.rollouts.engines.native import NativeEngine

        return NativeEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
