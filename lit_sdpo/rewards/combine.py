"""Adds up the verifier's score and any other rewards, and keeps failures out of the sum."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from lit_sdpo.errors import UserError, explained
from lit_sdpo.ranges import check_number
from lit_sdpo.rewards.base import Reward, Verdict
from lit_sdpo.rewards.registry import import_object

if TYPE_CHECKING:
    from transformers import TrainerState

_log = logging.getLogger(__name__)


#: What every reward may ask for besides the columns of the rows.
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


@dataclass(frozen=True)
class Told:
    """What rewards have said through the functions that they are given.

    Attributes:
        columns: Values by column, one for each completion: ``log_extra``.
        metrics: Numbers by name: ``log_metric``.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Rewards of N completions.

    Attributes:
        rewards: Weighted sum of the components that scored, float32 [N]; nan where every weighted component abstained.
        components: Each component's scores, float32 [N], nan for an abstention.
        abstained: Completions that a component did not score, failures included.
        failures: Completions that a component did not score because it raised or returned something unusable.
        told: What the rewards have said besides.
    """

    rewards: Tensor
    components: dict[str, Tensor]
    abstained: dict[str, int]
    failures: dict[str, int]
    told: Told = field(default_factory=Told)

    @property
    def means(self) -> dict[str, float]:
        """Mean of each component over the completions it scored; nan if it scored none."""
        return {name: values.nanmean().item() for name, values in self.components.items()}


#: A reward as a function; coroutines give an awaitable.
RewardFunction: TypeAlias = Callable[..., Any]


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

    @classmethod
    def of(
        cls,
        given: WeightedRewards | str | Sequence[str | RewardFunction] | RewardFunction | None,
        weights: Mapping[str, float] | Sequence[float] | None = None,
    ) -> WeightedRewards:
        """What ``rollout.rewards`` and ``rollout.reward_weights`` say.

        Args:
            given: The object itself, or a reward or several, as functions or import paths; each is called by the name
                of its function. ``None`` is the verifier alone.
            weights: Weight by name, the verifier's among them, or one for each reward in their order.

        Raises:
            UserError: There is no such reward, two of them are the same, or the weights do not fit.

        Example:
            >>> WeightedRewards.of(["my_rewards.brevity", "my_rewards.format"], [0.5, 1.0])  # doctest: +SKIP
        """
        if isinstance(given, WeightedRewards):
            if weights is not None:
                fix = "give them there (weights), or leave them out here"
                raise UserError("rollout.rewards has weights of its own", where="rollout.reward_weights", fix=fix)
            return given
        entries: list[Any] = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
        components: dict[str, Any] = {}
        for number, entry in enumerate(entries):
            where = f"rollout.rewards[{number}]" if isinstance(given, list | tuple) else "rollout.rewards"
            with explained("it cannot be made", where=where, fix="give a function, or its path: my_module.my_function"):
                reward = import_object(entry) if isinstance(entry, str) else entry
                if not callable(reward):
                    raise TypeError(f"{reward!r} is no function")
            name = _name(reward)
            if name in components:
                fix = "give each once, and functions of other names, or name them: WeightedRewards with components"
                raise UserError(f"two rewards are called {name!r}", where=where, fix=fix)
            components[name] = reward
        if weights is not None and not isinstance(weights, Mapping):
            if len(weights) != len(components):
                text = f"{len(weights)} weights for {len(components)} rewards"
                raise UserError(text, where="rollout.reward_weights", fix="give one for each, or a mapping by name")
            weights = dict(zip(components, weights, strict=True))
        return cls(components, weights)

    @property
    def further(self) -> bool:
        """Whether anything but the verifier shapes the reward."""
        return any(self.weights[name] != 0 for name in self.components)

    def __call__(
        self,
        verdicts: Sequence[Verdict],
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]] | None = None,
        trainer_state: TrainerState | None = None,
        **columns: list[Any],
    ) -> Scores:
        """Score N completions; ``columns`` go to the rewards by name, one value per completion.

        So do the verifier's ``scores`` and ``flags``, where no column has that name.

        Args:
            verdicts: The verifier's.
            prompts: One for each completion.
            completions: As messages or texts.
            completion_ids: Their tokens.
            trainer_state: How far the run is; ``None`` is a run that has not begun.
            **columns: Of the rows.

        Raises:
            UserError: A reward asks for a column that there is not.
        """
        results: dict[str, Any] = {"verifier": [verdict.score for verdict in verdicts]}
        columns = {"scores": results["verifier"], "flags": [verdict.flags for verdict in verdicts], **columns}
        columns = {name: values for name, values in columns.items() if name not in GIVEN}
        self.require(columns)
        told = Told()
        state = _state() if trainer_state is None and self.components else trainer_state
        waiting: dict[str, Awaitable[Any]] = {}
        for name, reward in self.components.items():
            try:
                # Its own copies: what it does to them must not reach other rewards or the training data.
                given = copy.deepcopy({"prompts": prompts, "completions": completions, **columns})
                ids = None if completion_ids is None else [list(row) for row in completion_ids]
                further = {"trainer_state": copy.copy(state), **_functions(told, len(completions))}
                result = reward(completion_ids=ids, **_wanted(reward, further), **given)
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
        return Scores(rewards, scores, abstained, failures, told)

    def require(self, columns: Iterable[str], where: str = "") -> None:
        """Find out whether every reward gets the columns that it cannot do without.

        Args:
            columns: Those that there are.
            where: Whose they are.

        Raises:
            UserError: Naming the reward and the column.
        """
        known = {*GIVEN, "scores", "flags", *columns}
        for name, reward in self.components.items():
            for parameter in _parameters(reward):
                needed = parameter.default is parameter.empty and parameter.kind not in (
                    parameter.VAR_KEYWORD,
                    parameter.VAR_POSITIONAL,
                )
                if needed and parameter.name not in known:
                    raise UserError(
                        f"the reward asks for {parameter.name!r}, which {where or 'there'} "
                        + ("has not" if where else "is not"),
                        where=f"rollout.rewards.components.{name}",
                        fix=f"use some of: {', '.join(sorted(known))}; or give the parameter a default",
                    )


def _parameters(reward: Reward) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(reward).parameters.values()
    except ValueError:  # what is written in C may not say
        return ()


def _wanted(reward: Reward, further: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some arguments that a reward takes; not every one looks at how far the run is."""
    parameters = list(_parameters(reward))
    everything = not parameters or any(each.kind == each.VAR_KEYWORD for each in parameters)
    return {name: x for name, x in further.items() if everything or name in {each.name for each in parameters}}


def _name(reward: Any) -> str:
    """What a reward is called: the name of its function or class."""
    inner = reward.func if isinstance(reward, functools.partial) else reward
    return str(getattr(inner, "__name__", type(inner).__name__))


def _functions(told: Told, count: int) -> dict[str, Callable[..., None]]:
    """The two functions that rewards say more with, as TRL gives them."""

    def log_extra(column: str, values: Sequence[Any]) -> None:
        if len(values) != count:
            raise ValueError(f"log_extra({column!r}): {len(values)} values for {count} completions")
        told.columns[str(column)] = list(values)

    def log_metric(name: str, value: float) -> None:
        told.metrics.setdefault(str(name), []).append(float(value))

    return {"log_extra": log_extra, "log_metric": log_metric}


def _state() -> TrainerState:
    from transformers import TrainerState  # takes a while to import

    return TrainerState()


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
