"""A stream of stages, and the tasks and probes that are evaluated along it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl

from lit_sdpo.data.base import TaskStream
from lit_sdpo.data.flags import check_evaluation, check_training
from lit_sdpo.data.stream import EvaluationLoader, WindowLoader
from lit_sdpo.data.task import Row, Split, Stage, Task
from lit_sdpo.errors import UserError
from lit_sdpo.likelihood.loader import LikelihoodLoader
from lit_sdpo.likelihood.tasks import LikelihoodTask
from lit_sdpo.ranges import check_integer, check_seed, check_share
from lit_sdpo.rewards.registry import register_verifiers
from lit_sdpo.seed import run_seed


class ContinualDataModule(TaskStream, pl.LightningDataModule):
    """Swaps tasks while one ``fit`` runs: one stage is one Lightning epoch.

    Every task of the stream and every probe is evaluated before training, at each stage's end and, with
    ``eval_every``, in between.

    Args:
        stages: The stream, in order. A task may come back in a later stage.
        probes: Tasks that are only evaluated, such as out-of-distribution variants.
        eval_prompts: Prompts per task in an evaluation; the same ones each time. ``None`` takes all.
        eval_generations: Completions per prompt in an evaluation (the paper: 8).
        eval_batch_size: Prompts that are generated for at once in an evaluation.
        eval_every: Optimizer steps between evaluations inside a stage; has to divide every stage's steps. ``None``
            evaluates at stage ends only.
        evaluate_trained: Evaluate the trained tasks too; without, the probes alone.
        replay_share: Prompts of earlier stages' tasks that are sampled along with each step's, as a share of its
            prompts (arXiv:2605.29495: 0.01 to 0.1). Needs the module's ``replay_coefficient``, which learns from their
            verified completions, or ``prompt_anchor_coefficient`` or ``continual_mopd_coefficient``, which hold the
            policy there.
        replay_tasks: Further tasks whose training prompts take turns with those of earlier stages, from the first stage
            on, such as general instructions; they are neither trained on nor evaluated. Needs ``replay_share``.
        updates_per_rollout: Optimizer steps on the same rollouts (the paper: 1, strictly on-policy).
        seed: Seed of the order of the training prompts; ``None`` takes that of ``seed_everything``.
        override_prompts_per_step: Prompts of one step in every stage; ``None`` leaves it to the stages.
        verifiers: Import paths (``package.module.name``) of further verifiers by the name that rows use; rows name no
            code. In Python, :func:`~lit_sdpo.rewards.registry.register_verifiers` comes before the tasks.
        likelihood: Tasks that are only evaluated, without generating: options and texts whose likelihood is measured.

    Raises:
        UserError: A number is out of range, two different tasks share a name, a stage has no training rows, or
            ``eval_every`` does not divide a stage.
    """

    def __init__(
        self,
        stages: list[Stage],
        probes: list[Task] | None = None,
        eval_prompts: int | None = 128,
        eval_generations: int = 4,
        eval_batch_size: int = 32,
        eval_every: int | None = None,
        evaluate_trained: bool = True,
        replay_share: float = 0.0,
        updates_per_rollout: int = 1,
        seed: int | None = None,
        override_prompts_per_step: int | None = None,
        verifiers: dict[str, str] | None = None,
        likelihood: list[LikelihoodTask] | None = None,
        replay_tasks: list[Task] | None = None,
    ) -> None:
        super().__init__()
        register_verifiers(verifiers or {})
        for name, count in {
            "eval_generations": eval_generations,
            "eval_batch_size": eval_batch_size,
            "updates_per_rollout": updates_per_rollout,
        }.items():
            check_integer(name, count, at_least=1)
        for name, some in {
            "eval_prompts": eval_prompts,
            "eval_every": eval_every,
            "override_prompts_per_step": override_prompts_per_step,
        }.items():
            check_integer(name, some, at_least=1, optional=True)
        check_share("replay_share", replay_share)
        check_seed("seed", seed, optional=True)
        if override_prompts_per_step is not None:
            stages = [replace(stage, prompts_per_step=override_prompts_per_step) for stage in stages]
        self.stages, self.probes, self.likelihood = stages, probes or [], likelihood or []
        self.replay_tasks = replay_tasks or []
        self.eval_prompts, self.eval_generations, self.eval_batch_size = eval_prompts, eval_generations, eval_batch_size
        self.eval_every, self.updates_per_rollout, self.seed = eval_every, updates_per_rollout, run_seed(seed)
        self.evaluate_trained, self.replay_share = evaluate_trained, replay_share
        # More devices than evaluation prompts: the others have nothing to do there.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._check()

    def _check(self) -> None:
        if not self.stages:
            raise UserError("the stream has no stages", where="data.stages", fix="give at least one task")
        for i, stage in enumerate(self.stages):
            if self.eval_every is not None and stage.steps % self.eval_every:
                raise UserError(
                    f"eval_every {self.eval_every} does not divide the {stage.steps} steps of stage {i}"
                    f" ({stage.task.name})",
                    where="data.eval_every",
                    fix="use a divisor of every stage's steps, so that each stage's end is evaluated",
                )
            for part in stage.task.parts:
                first = next(task for task in self.tasks if task.name == part.name)
                if not _same(first, part):
                    raise UserError(
                        f"two different tasks are named {part.name!r}",
                        where=f"data.stages[{i}].task",
                        fix="give each its own name",
                    )
        if not all(self.task_names) or not all(self.probe_names):
            raise UserError("a task has no name", where="data", fix="give every task and probe a name")
        if clash := set(self.task_names) & set(self.probe_names):
            raise UserError(
                f"{sorted(clash)} are both trained and probes", where="data.probes", fix="name them differently"
            )
        if self.replay_tasks and not self.replay_share:
            what, fix = "their prompts are never drawn", "set data.replay_share above 0"
            raise UserError(what, where="data.replay_tasks", fix=fix)
        if clash := {task.name for task in self.replay_tasks} & {*self.task_names, *self.probe_names}:
            raise UserError(
                f"{sorted(clash)} are trained or evaluated too", where="data.replay_tasks", fix="name them differently"
            )
        if len(set(self.probe_names)) < len(self.probe_names):
            what = "two tasks that are only evaluated share a name"
            raise UserError(what, where="data.probes", fix="give each probe and task of likelihood its own name")

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole stream."""
        return sum(stage.steps for stage in self.stages)

    def trainer_arguments(self) -> dict[str, Any]:
        """What the Trainer has to be told for one epoch to be one stage: ``Trainer(**data.trainer_arguments())``."""
        return {
            "max_epochs": len(self.stages),
            "reload_dataloaders_every_n_epochs": 1,
            "num_sanity_val_steps": 0,
            "inference_mode": False,
            "log_every_n_steps": 1,
            # Lightning warns of loops over nothing.
            **({} if self._evaluates else {"limit_val_batches": 0}),
        }

    @property
    def _evaluates(self) -> bool:
        return bool(self.evaluated or self.likelihood)

    def setup(self, stage: str) -> None:
        """Check the tasks' rows and the trainer's flags before the first step."""
        if stage == "fit":
            for i, entry in enumerate(self.stages):
                for task in entry.task.parts:
                    if not len(task.rows("train")):
                        raise UserError(f"task {task.name!r} has no training rows", where=f"data.stages[{i}].task")
            for task in self.replay_tasks:
                if not len(task.rows("train")):
                    raise UserError(f"task {task.name!r} has no training rows", where="data.replay_tasks")
            self._check_trainer()
        elif self.trainer and not self.trainer.fast_dev_run and self._evaluates:  # type: ignore[attr-defined]
            check_evaluation(self.trainer, "limit_test_batches" if stage == "test" else "limit_val_batches")
        split: Split = "test" if stage == "test" else "validation"
        for task in self.evaluated:
            if not self.evaluation_rows(task, split):
                raise UserError(f"task {task.name!r} has no rows to evaluate in the {split} split", where="data")
        sizes = [len(self.evaluation_rows(task, split)) for task in self.evaluated]
        largest = max([*sizes, *(len(task.rows(split)) for task in self.likelihood)], default=None)
        if self.trainer and largest is not None and largest < self.trainer.world_size:
            raise UserError(  # Lightning would leave the evaluation out on some devices, and the others would wait
                f"{largest} prompts to evaluate for {self.trainer.world_size} devices",
                where="data.eval_prompts",
                fix="give at least one prompt per device in some task",
            )

    def _check_trainer(self) -> None:
        trainer: Any = self.trainer
        if trainer is None or trainer.fast_dev_run:
            return
        check_training(
            trainer,
            stages=len(self.stages),
            steps=self.total_steps,
            eval_every=self.eval_every,
            evaluates=self._evaluates,
        )
        for i, stage in enumerate(self.stages):
            if stage.prompts_per_step < trainer.world_size:
                raise UserError(
                    f"{stage.prompts_per_step} prompts for {trainer.world_size} devices",
                    where=f"data.stages[{i}].prompts_per_step",
                    fix="give at least one prompt per device",
                )

    def train_dataloader(self) -> WindowLoader:
        """The windows of the current stage."""
        trainer = self.trainer
        index = trainer.current_epoch if trainer else 0
        stage = self.stages[index]
        slots = trainer.accumulate_grad_batches if trainer else 1
        if trainer and self.eval_every is not None:
            trainer.val_check_interval = self.eval_every * slots
        return WindowLoader(
            stage,
            index,
            slots=slots,
            updates_per_rollout=self.updates_per_rollout,
            seed=self.seed,
            earlier=self.replayed_tasks(index),
            replay_share=self.replay_share,
            **self._place(),
        )

    def earlier_tasks(self, index: int) -> list[Task]:
        """The tasks of the stages before one that it does not train on itself."""
        own = {task.name for task in self.stages[index].task.parts}
        parts = [task for stage in self.stages[:index] for task in stage.task.parts if task.name not in own]
        return list({task.name: task for task in parts}.values())

    def replayed_tasks(self, index: int) -> list[Task]:
        """The tasks whose prompts are drawn along with those of a stage."""
        return [*self.earlier_tasks(index), *self.replay_tasks]

    def val_dataloader(self) -> list[EvaluationLoader | LikelihoodLoader]:
        """One loader per task, probe and task of likelihood, over the validation split."""
        return self._evaluation("validation")

    def test_dataloader(self) -> list[EvaluationLoader | LikelihoodLoader]:
        """The same over the final test split, which nothing is tuned on."""
        return self._evaluation("test")

    def _evaluation(self, split: Split) -> list[EvaluationLoader | LikelihoodLoader]:
        place, size = self._place(), self.eval_batch_size
        scored = [LikelihoodLoader(task, task.rows(split), batch_size=size, **place) for task in self.likelihood]
        generated = [
            EvaluationLoader(
                task,
                self.evaluation_rows(task, split),
                num_generations=self.eval_generations,
                batch_size=size,
                **place,
            )
            for task in self.evaluated
        ]
        return [*generated, *scored]

    def evaluation_rows(self, task: Task, split: Split = "validation") -> Sequence[Row]:
        """The rows that are evaluated: the first ``eval_prompts`` in an order that depends on their ids alone."""
        rows = task.rows(split)
        if self.eval_prompts is None or len(rows) <= self.eval_prompts:
            return rows
        return sorted(rows, key=lambda row: hashlib.md5(row.id.encode()).digest())[: self.eval_prompts]

    def _place(self) -> dict[str, int]:
        return {
            "rank": self.trainer.global_rank if self.trainer else 0,
            "world_size": self.trainer.world_size if self.trainer else 1,
        }


def verifiers_of(data: Any) -> Mapping[str, str]:
    """What a parsed configuration of a data module registers; its tasks are made before it is."""
    found = ((data or {}).get("init_args") or {}).get("verifiers")
    return dict(found or {})


def _same(one: Task, other: Task) -> bool:
    """Whether two tasks ask the same; a configuration that names a task twice makes two objects of it."""
    if one is other:
        return True
    splits: tuple[Split, ...] = ("train", "validation", "test")
    beginnings = [[[len(task.rows(s)), *task.rows(s)[:16]] for s in splits] for task in (one, other)]
    return type(one) is type(other) and beginnings[0] == beginnings[1]
