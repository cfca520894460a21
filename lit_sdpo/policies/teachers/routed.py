"""A teacher for each task."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_sdpo.errors import UserError
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, scattered
from lit_sdpo.policies.sharding import is_sharded
from lit_sdpo.policies.teachers.base import Reads, Teacher
from lit_sdpo.policies.teachers.model import ModelTeacher, UnsavedModel


class RoutedTeacher(Teacher):
    """Several teachers, each for its own rows: by their task, or as their stage's ``method.teacher`` says.

    With the specialists of earlier runs as teachers of a mixture this is multi-teacher on-policy distillation
    (arXiv:2606.30406). Each teacher runs once per slice, over its own rows alone.

    Args:
        teachers: A teacher for each name: of a task, or one that a stage names.
        default: Teaches every other task; ``None`` refuses them before the first step.

    Raises:
        UserError: There is no teacher, a teacher stands for nothing that is trained on, or a task has none.
    """

    def __init__(self, teachers: Mapping[str, Teacher], default: Teacher | None = None) -> None:
        super().__init__()
        if not teachers:
            fix = "give a teacher for each task, or one teacher in its place"
            raise UserError("there is nobody to route to", where="model.teacher.teachers", fix=fix)
        self.names = list(teachers)
        self.teachers = nn.ModuleList(teachers.values())
        self.default = default
        self.averages = any(teacher.averages for teacher in self._all)
        self.copies_student = all(teacher.copies_student for teacher in self._all)

    @property
    def _all(self) -> list[Teacher]:
        return [part for part in (*self.teachers, self.default) if isinstance(part, Teacher)]

    def _teacher_of(self, route: str) -> Teacher:
        if route in self.names:
            return self._all[self.names.index(route)]
        if self.default is None:
            raise self._unknown(route, "model.teacher")
        return self.default

    def _unknown(self, route: str, where: str) -> UserError:
        told = ", ".join(self.names)
        fix = f"add it to teachers, or give a default for all others; there are: {told}"
        return UserError(f"there is no teacher for {route!r}", where=f"{where}.teachers", fix=fix)

    # --------------------------------------------------------------------------------------------------- how it begins
    @property
    def models(self) -> list[tuple[str, str]]:
        """Those of all."""
        return [model for teacher in self._all for model in teacher.models]

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """All read the policy's tokens."""
        for teacher in self._all:
            teacher.check_tokenizer(tokenizer)

    def attach(self, policy: PreTrainedModel) -> None:
        """All get ready; adapters share one base."""
        base: UnsavedModel | None = None
        for teacher in self._all:
            if isinstance(teacher, ModelTeacher):
                teacher.attach_over(policy, base)
                base = base or teacher.base
            else:
                teacher.attach(policy)

    def check_routes(self, tasks: Collection[str], named: Collection[str], where: str = "model.teacher") -> None:
        """Every row has a teacher, and every teacher something to teach.

        Raises:
            UserError: With the first name that does not fit.
        """
        routes = list(dict.fromkeys((*tasks, *named)))
        for route in routes:
            if route not in self.names and (self.default is None or route in named):
                raise self._unknown(route, where)
        known = ", ".join(routes)
        for name in self.names:
            if name not in routes:
                text = f"there is a teacher for {name!r}, which no stage trains on or names"
                raise UserError(text, where=f"{where}.teachers", fix=f"leave it out; there are: {known}")
        if self.default is not None and set(routes) <= set(self.names):
            text = "every task has a teacher of its own, so this one has nobody to teach"
            raise UserError(text, where=f"{where}.default", fix="leave it out")

    # --------------------------------------------------------------------------------------------------- when it moves
    def start_stage(self, policy: PreTrainedModel) -> None:
        """Each as it does."""
        for teacher in self._all:
            teacher.start_stage(policy)

    def after_optimizer_step(self, policy: PreTrainedModel) -> None:
        """Each by its own clock."""
        for teacher in self._all:
            teacher.after_optimizer_step(policy)

    def before_rollout(self, policy: PreTrainedModel) -> None:
        """Each by its own clock."""
        for teacher in self._all:
            teacher.before_rollout(policy)

    def observe(self, score: float, longest_over_mean: float) -> None:
        """All see the whole window, of whichever tasks."""
        for teacher in self._all:
            teacher.observe(score, longest_over_mean)

    def refresh(self, policy: PreTrainedModel, share: float) -> None:
        """All move."""
        for teacher in self._all:
            teacher.refresh(policy, share)

    @property
    def follows(self) -> bool:
        """Whether any does."""
        return any(teacher.follows for teacher in self._all)

    def freeze(self) -> None:
        """None follows any more."""
        for teacher in self._all:
            teacher.freeze()

    # ---------------------------------------------------------------------------------------------------- what it says
    def reads(self, route: str) -> Reads:
        """As the row's teacher does."""
        return self._teacher_of(route).reads(route)

    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """Each row's own teacher."""
        chosen = [self._teacher_of(route) for route in sequences.routes]
        owners = sequences.completion_mask.nonzero()[:, 0]
        parts: list[tuple[Tensor, Scorer]] = []
        for teacher in self._all:
            rows = [n for n, own in enumerate(chosen) if own is teacher]
            # Of divided weights every process has a part, so all ask each teacher, if need be about nothing of theirs.
            if rows or is_sharded(policy):
                own = torch.isin(owners, torch.tensor(rows, dtype=torch.long, device=owners.device))
                parts.append((own, teacher.scorer(policy, sequences.select(rows or [0]))))
        return scattered(parts)

    def measures(self, policy: PreTrainedModel, costly: bool) -> dict[str, Tensor]:
        """Those of each, as ``<measure>/<name>``."""
        return {
            f"{measure}/{name}": value
            for name, teacher in zip([*self.names, "default"], self._all, strict=False)
            for measure, value in teacher.measures(policy, costly).items()
        }
