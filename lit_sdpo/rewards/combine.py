"""Adds up the verifier's score and any other rewards, and keeps failures out of the sum."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import threading
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_number
from lit_sdpo.rewards.base import Reward, Verdict
from lit_sdpo.rewards.registry import import_object

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Rewards of N completions.

    Attributes:
        rewards: Weighted sum of the components that scored, float32 [N]; nan where every weighted component abstained.
        components: Each component's scores, float32 [N], nan for an abstention.
        abstained: Completions that a component did not score, failures included.
        failures: Completions that a component did not score because it raised or returned something unusable.
    """

    rewards: Tensor
    components: dict[str, Tensor]
    abstained: dict[str, int]
    failures: dict[str, int]

    @property
    def means(self) -> dict[str, float]:
        """Mean of each component over the completions it scored; nan if it scored none."""
        return {name: values.nanmean().item() for name, values in self.components.items()}


class WeightedRewards:
    r"""``reward = \sum_c weight[c] * score_c`` over the components that did not abstain.

    Args:
        components: Further rewards by name, as objects or import paths (``package.module.function``). They have the
            signature of TRL's reward functions and may be coroutines; those run side by side.
        weights: Weight by name, 1 where nothing is said. The verifier's score is the component ``"verifier"``. A
            component of weight 0 is only logged.

    Example:
        >>> def brevity(prompts, completions, **columns):
        ...     return [-0.1 * len(completion) for completion in completions]
        >>> rewards = WeightedRewards({"brevity": brevity})
        >>> rewards([Verdict(1.0), Verdict(None)], ["?", "?"], ["four", "4"]).rewards
        tensor([ 0.6000, -0.1000])
    """

    def __init__(
        self, components: Mapping[str, Reward | str] | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self.components: dict[str, Any] = {}
        for name, reward in (components or {}).items():
            found = import_object(reward) if isinstance(reward, str) else reward
            self.components[name] = found() if isinstance(found, type) else found
            if name == "verifier" or not callable(self.components[name]):
                raise UserError(f"{name!r} is not a name or object of a reward", where=f"components.{name}")
        names = ["verifier", *self.components]
        if unknown := sorted(set(weights or {}) - set(names)):
            raise UserError(f"no such component {unknown[0]!r}", where="weights", fix=f"use {', '.join(names)}")
        for name, weight in (weights or {}).items():  # negative ones make a penalty of a reward
            check_number(f"the weight of {name}", weight)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in names}

    def __call__(
        self,
        verdicts: Sequence[Verdict],
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]] | None = None,
        **columns: list[Any],
    ) -> Scores:
        """Score N completions; ``columns`` go to the rewards by name, one value per completion.

        So do the verifier's ``scores`` and ``flags``.

        Raises:
            UserError: A reward asks for a column that there is not.
        """
        results: dict[str, Any] = {"verifier": [verdict.score for verdict in verdicts]}
        columns = {"scores": results["verifier"], "flags": [verdict.flags for verdict in verdicts], **columns}
        self._require(columns)
        waiting: dict[str, Awaitable[Any]] = {}
        for name, reward in self.components.items():
            try:
                # Its own copies: what it does to them must not reach other rewards or the training data.
                given = copy.deepcopy({"prompts": prompts, "completions": completions, **columns})
                ids = None if completion_ids is None else [list(row) for row in completion_ids]
                result = reward(completion_ids=ids, **given)
            except UserError:
                raise
            except Exception as error:
                result = error
            if inspect.isawaitable(result):
                waiting[name] = result
            else:
                results[name] = result
        results |= _gathered(waiting)
        count = len(completions)
        scores: dict[str, Tensor] = {}
        failures: dict[str, int] = {}
        for name in self.weights:
            try:
                scores[name], failures[name] = _tensor(results[name], count), 0
            except Exception as error:
                _log.warning("The reward %r failed and abstains: %r", name, error, exc_info=error)
                scores[name], failures[name] = torch.full((count,), torch.nan), count
        weighted = [weight * scores[name] for name, weight in self.weights.items() if weight != 0]
        total = torch.stack(weighted) if weighted else torch.full((1, count), torch.nan)
        rewards = total.nansum(0).masked_fill(total.isnan().all(0), torch.nan)
        abstained = {name: int(values.isnan().sum()) for name, values in scores.items()}
        return Scores(rewards, scores, abstained, failures)

    def _require(self, columns: Iterable[str]) -> None:
        """Find out whether every reward gets the columns that it cannot do without."""
        known = {"prompts", "completions", "completion_ids", *columns}
        for name, reward in self.components.items():
            for parameter in inspect.signature(reward).parameters.values():
                needed = parameter.default is parameter.empty and parameter.kind not in (
                    parameter.VAR_KEYWORD,
                    parameter.VAR_POSITIONAL,
                )
                if needed and parameter.name not in known:
                    raise UserError(
                        f"the reward asks for {parameter.name!r}, which there is not",
                        where=f"rollout.rewards.components.{name}",
                        fix=f"use some of: {', '.join(sorted(known))}",
                    )


def _tensor(result: Any, count: int) -> Tensor:
    """Scores as float32 [N]; ``None`` becomes nan."""
    if isinstance(result, BaseException):
        raise result
    values = torch.tensor([torch.nan if score is None else float(score) for score in result], dtype=torch.float32)
    if len(values) != count:
        raise ValueError(f"{len(values)} scores for {count} completions")
    if values.isinf().any():
        raise ValueError("a score is infinite")
    return values


def _gathered(waiting: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    """Results or exceptions of coroutines, run in a thread of their own because a notebook's loop already runs here."""
    results: dict[str, Any] = {}

    async def gather() -> None:
        outcomes = await asyncio.gather(*waiting.values(), return_exceptions=True)
        results.update(zip(waiting, outcomes, strict=True))

    if waiting:
        thread = threading.Thread(target=lambda: asyncio.run(gather()))
        thread.start()
        thread.join()
    return results
