"""How much a run generates and trains on, stage by stage; data sets that are not on this machine are not read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.jsonl import Plan, SourceTask, planned
from lit_sdpo.data.mixture import Mixture, Share, parts_of
from lit_sdpo.data.readers import read_rows
from lit_sdpo.data.task import Row, Split, Stage, Task
from lit_sdpo.errors import UserError
from lit_sdpo.planning.settings import Settings
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.registry import import_object


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        task: Its task.
        steps: Optimizer steps.
        prompts: Prompts drawn, replayed ones of earlier tasks included.
        completions: Completions trained on.
        sampled: Most completions that are generated for them; none where reference answers are learned.
        tokens: Most tokens that are generated.
    """

    task: str
    steps: int
    prompts: int
    completions: int
    sampled: int
    tokens: int


@dataclass(frozen=True)
class EvaluationPlan:
    """All evaluations of a run.

    Attributes:
        count: How often everything is evaluated.
        prompts: Prompts of each task in one evaluation.
        unread: Tasks of which the number is only the most there can be.
        completions: Of all evaluations.
        tokens: Most tokens of these completions.
    """

    count: int
    prompts: dict[str, int]
    unread: list[str]
    completions: int
    tokens: int


class _Numbered(Task):
    """Stands in for a task of which only the number of evaluated rows matters."""

    def __init__(self, name: str, count: int, exact: bool) -> None:
        super().__init__(name)
        self.exact = exact
        self._rows = [Row(str(number), [], "") for number in range(count)]

    def rows(self, split: Split) -> Sequence[Row]:
        return self._rows

    def verify(self, completion: str, row: Row) -> Verdict:
        raise NotImplementedError


def data_of(settings: Settings, known_rows: Mapping[str, int]) -> ContinualDataModule:
    """The stream, with tasks of files and of the Hub replaced by their numbers of rows.

    Args:
        settings: The configuration.
        known_rows: Rows of tasks whose data are not here, by name.

    Raises:
        UserError: A mistake in the stream, or nobody knows how many prompts a task evaluates.
    """
    arguments = settings.config.data.init_args
    if not known_rows and at_hand(settings):
        data: ContinualDataModule = settings.build("data", settings.config.data)
        return data
    made: dict[str, _Numbered] = {}

    def stand_in(spec: Any) -> _Numbered:
        plan = planned(spec)
        identity = repr(plan)
        if identity not in made:
            made[identity] = _Numbered(plan.name, *_count(plan, arguments.get("eval_prompts"), known_rows))
        return made[identity]

    def stage_task(spec: Any) -> Task:
        parts = [stand_in(part) for part in parts_of(spec)]
        if len(parts) == 1:
            return parts[0]
        shares = [share.share for share in spec.init_args.shares]
        return Mixture([Share(task=task, share=share) for task, share in zip(parts, shares, strict=True)])

    stages = [
        Stage(task=stage_task(s.task), steps=s.steps, prompts_per_step=s.prompts_per_step) for s in arguments.stages
    ]
    apart = ("stages", "probes", "likelihood", "replay_tasks")
    rest = {key: value for key, value in vars(arguments).items() if key not in apart}
    rest["replay_tasks"] = [_Numbered(planned(spec).name, 1, True) for spec in arguments.get("replay_tasks") or []]
    kind = import_object(settings.config.data.class_path)
    built: ContinualDataModule = kind(stages, [stand_in(spec) for spec in arguments.get("probes") or []], **rest)
    return built


def at_hand(settings: Settings) -> bool:
    """Whether no row that the stream uses is anywhere but in files of this machine."""
    arguments = settings.config.data.init_args
    trained = [spec for stage in arguments.get("stages") or [] for spec in parts_of(stage.task)]
    specs = [*trained, *(arguments.get("probes") or []), *(arguments.get("replay_tasks") or [])]
    kinds = [import_object(spec.class_path) for spec in specs]
    if not all(issubclass(kind, SourceTask) and hasattr(kind, "plan") for kind in kinds):
        return True  # they make their rows themselves, or only they know what they read
    sources = [source for spec in specs for some in planned(spec).sources.values() for source in some]
    return all(source.path is not None and Path(source.path).is_file() for source in sources)


def stages_of(data: ContinualDataModule, rollout: RolloutCallback, *, samples: bool) -> list[StagePlan]:
    """What each stage trains on.

    Args:
        data: The stream.
        rollout: How completions are drawn.
        samples: Whether the method learns from its own completions, not from reference answers.
    """
    plans = []
    for number, stage in enumerate(data.stages):
        windows = -(-stage.steps // data.updates_per_rollout)
        replayed = math.ceil(data.replay_share * stage.prompts_per_step) if data.replayed_tasks(number) else 0
        prompts = windows * (stage.prompts_per_step + replayed)
        spare = windows * stage.prompts_per_step * rollout.resample_rounds
        sampled = (prompts + spare) * rollout.num_generations if samples else 0
        rows = prompts * (rollout.num_generations if samples else 1)
        tokens = sampled * rollout.sampling.max_new_tokens
        plans.append(StagePlan(stage.task.name, stage.steps, prompts, rows, sampled, tokens))
    return plans


def evaluation_of(data: ContinualDataModule, rollout: RolloutCallback, *, evaluates: bool = True) -> EvaluationPlan:
    """What all evaluations generate: one before training, one at each stage's end, those that ``eval_every`` adds.

    Args:
        data: The stream.
        rollout: How completions are drawn.
        evaluates: Whether the trainer evaluates at all.
    """
    count = 1 + sum(stage.steps // (data.eval_every or stage.steps) for stage in data.stages) if evaluates else 0
    prompts = {task.name: len(data.evaluation_rows(task)) for task in data.evaluated}
    unread = [task.name for task in data.evaluated if not getattr(task, "exact", True)]
    rows = count * sum(prompts.values()) * data.eval_generations
    return EvaluationPlan(count, prompts, unread, rows, rows * rollout.evaluation_sampling.max_new_tokens)


def _count(plan: Plan, most: int | None, known_rows: Mapping[str, int]) -> tuple[int, bool]:
    """Rows of the validation split, and whether that is their number rather than the most that are used."""
    sources = plan.sources.get("validation", [])
    if plan.name in known_rows:
        return known_rows[plan.name], True
    if sources and all(source.path is not None and Path(source.path).is_file() for source in sources):
        read = [read_rows(source, on_bad_row=plan.on_bad_row, split="test", limit=plan.limit)[0] for source in sources]
        found = sum(map(len, read))
        return min(found, plan.limit or found), True
    if (limit := min(filter(None, (most, plan.limit)), default=None)) is None:
        raise UserError(
            f"the evaluated rows of task {plan.name!r} are not on this machine, so their number is unknown",
            where="data.eval_prompts",
            fix=f"set it, or say the number with --rows {plan.name}=N",
        )
    return limit, False
