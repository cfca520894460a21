"""Generation and scoring, for training and evaluation alike: the only place where text is produced."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from lit_sdpo.callbacks.overlap import Collected, Overlap
from lit_sdpo.callbacks.prompt_budget import PromptBudget
from lit_sdpo.callbacks.rollout_checks import check_module, check_overlap, check_replay, imitates
from lit_sdpo.callbacks.rollout_scores import EvaluationScores, log_rollouts
from lit_sdpo.callbacks.window_weights import weigh
from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rewards.failures import FailureLimit, count_failures
from lit_sdpo.rollouts.engine import NativeEngine
from lit_sdpo.rollouts.generate import Generation, generate, questions
from lit_sdpo.rollouts.mismatch import Mismatch
from lit_sdpo.rollouts.prompts import PromptBatch
from lit_sdpo.rollouts.reference import reference_ids, reference_rollouts
from lit_sdpo.rollouts.selection import uneven_groups, with_uneven_groups
from lit_sdpo.rollouts.types import LossBatch, RolloutEngine, Rollouts, Sampling
from lit_sdpo.seed import run_seed


class RolloutCallback(Callback):
    """Fills each batch of prompts with scored completions before the module sees it.

    At the first slot of a window it generates for all prompts of the step with the current weights, scores the
    completions, lets the module prepare them (advantages, teacher contexts), counts the active tokens over all ranks
    and cuts the rows into one slice per slot. In evaluation it generates, scores and logs ``val/<task>/accuracy``,
    ``length``, ``truncated`` and ``invalid``. What is sampled for a prompt depends on the seed, the stage, the step and
    the prompt's place alone; in evaluation on the seed, the task and the item, so the same draws are compared over
    time.

    It asks a LightningModule for ``policy``, ``tokenizer`` and optionally ``prepare_rollouts(rollouts) -> LossBatch``,
    ``learns_from = "reference"`` (train on reference answers), ``aggregation`` and ``chat_template_options``. Callbacks
    with a method ``on_rollouts`` get to see everything that was generated; its ``step`` is the number of optimizer
    steps taken before.

    Args:
        num_generations: Completions per prompt, G (the paper: 8).
        sampling: How completions are drawn in training (the paper: temperature 1, at most 14,336 tokens).
        evaluation_sampling: The same in evaluation; ``None`` uses ``sampling``.
        engine: What generates; ``None`` is the native engine.
        rewards: How the verifier and further rewards are combined; ``None`` is the verifier alone.
        resample_rounds: Dynamic sampling (arXiv:2503.14476): up to this many times, groups whose rewards are all equal
            are replaced by groups of further prompts. Each rank decides for its own prompts.
        max_prompt_tokens: Longest allowed prompt (the paper: 2,048). A longer one is an error before the first step.
        seed: Seed of everything that is sampled; ``None`` takes that of ``seed_everything``.
        max_verifier_failures: Highest share of completions on which the verifier may raise, hang or crash, over at
            least 50 of them; such completions have no score.
        overlap: Draw the next window's completions while this one's update runs; their weights are then one optimizer
            step old. Needs an engine with a server; see ``docs/vllm.md``.

    Raises:
        UserError: The module lacks what is needed, a prompt exceeds the budget, prompt and completion exceed what
            tokenizer or model can read, or the verifier fails too often.
    """

    def __init__(
        self,
        num_generations: int = 8,
        sampling: Sampling | None = None,
        evaluation_sampling: Sampling | None = None,
        engine: RolloutEngine | None = None,
        rewards: WeightedRewards | None = None,
        resample_rounds: int = 0,
        max_prompt_tokens: int = 2048,
        seed: int | None = None,
        max_verifier_failures: float = 0.05,
        overlap: bool = False,
    ) -> None:
        if num_generations < 1:
            raise ValueError(f"num_generations must be at least 1, got {num_generations}")
        self.num_generations = num_generations
        self.sampling = sampling or Sampling()
        self.evaluation_sampling = evaluation_sampling or self.sampling
        self.engine = engine or NativeEngine()
        self.rewards = rewards or WeightedRewards()
        self.resample_rounds = resample_rounds
        self.max_prompt_tokens = max_prompt_tokens
        self.seed = run_seed(seed)
        self.failures = FailureLimit(max_verifier_failures)
        #: Scores of the samples of each item in the last evaluation, by task and item id.
        self.item_scores: dict[str, dict[str, list[float]]] = {}
        self._budget = PromptBudget(max_prompt_tokens)
        self._slices: list[LossBatch] = []
        self._contributing = 0
        self._evaluation = EvaluationScores(torch.device("cpu"))
        self._evaluated: list[Verdict] = []
        self._held = ExitStack()
        self._overlap = Overlap(self.engine) if overlap else None
        self._mismatch: Mismatch | None = None

    # ------------------------------------------------------------------------------------------------- before the run
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the module, and every prompt against the budget."""
        module: Any = pl_module
        check_module(module)
        check_replay(trainer, module, self.resample_rounds)
        if self._overlap is not None:
            check_overlap(self.engine, module, self.resample_rounds)
        self._slices, self._budget = [], PromptBudget(self.max_prompt_tokens)
        data: Any = getattr(trainer, "datamodule", None)
        for where, rows in data.all_rows(stage) if hasattr(data, "all_rows") else ():
            trained = where.endswith("(train)")
            sampling = self.sampling if trained else self.evaluation_sampling

            def completion(row: Row, trained: bool = trained, most: int = sampling.max_new_tokens) -> int:
                return len(reference_ids(row, module.tokenizer)) if trained and imitates(module) else most

            self._budget.add(module.tokenizer, _template_options(module), where, rows, completion)
        self._budget.check(getattr(module.tokenizer, "model_max_length", None))

    def window(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[int, int, int, int]:
        """Most that a window of this process can hold: prompts, completions, tokens of the longest of either."""
        data: Any = getattr(trainer, "datamodule", None)
        prompts = max((stage.prompts_per_step for stage in getattr(data, "stages", ())), default=1)
        prompts = -(-prompts // trainer.world_size)
        prompts += math.ceil(getattr(data, "replay_share", 0.0) * prompts)
        rows = prompts * (1 if imitates(pl_module) else self.num_generations)
        return prompts, rows, self._budget.prompt, self._budget.completion

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Check the longest prompt and completion against the policy, which is loaded by now."""
        config = getattr(pl_module.policy, "config", None)
        if config is not None:
            self._budget.check(getattr(config.get_text_config(), "max_position_embeddings", None))

    on_validation_start = on_fit_start
    on_test_start = on_fit_start

    # --------------------------------------------------------------------------------------------------------- training
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Generate once per window, then hand slice k to slot k."""
        # ModelCheckpoint prefers a metric "step", which would be the last evaluation's, to the real one.
        trainer.callback_metrics.pop("step", None)
        if batch.slot == 0:
            self._begin(trainer, pl_module, batch)
        if not self._slices:
            raise UserError(
                "the checkpoint was written between the rollouts of a window and their last use",
                where="ckpt_path",
                fix="resume from a checkpoint that was written before new rollouts",
            )
        batch.loss = self._slices[batch.slot]
        batch.loss.fresh = batch.update == 0 and self._mismatch is None
        batch.loss.mismatch = self._mismatch
        batch.contributing_rows = self._contributing

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Log how far the engine that sampled is from the policy."""
        if self._mismatch is not None and batch.slot == batch.slots - 1 and getattr(pl_module, "log_due", False):
            self._mismatch.log(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, module: Any, batch: PromptBatch) -> None:
        """Have this step's rollouts, and the next ones asked for where that is wanted, as early as possible."""
        sampled_elsewhere = getattr(self.engine, "mismatched", False) and not imitates(module)
        self._mismatch = Mismatch(module.device) if sampled_elsewhere else None
        collected = None if self._overlap is None else self._overlap.collect()
        if collected is not None:
            self._ask_ahead(trainer, module, batch)
        if batch.update == 0:
            self._roll(trainer, module, batch, collected)
        if collected is None:
            self._ask_ahead(trainer, module, batch)

    def _ask_ahead(self, trainer: pl.Trainer, module: Any, batch: PromptBatch) -> None:
        if self._overlap is None or (following := batch.following()) is None:
            return
        calls = [
            questions(module.policy, module.tokenizer, some.rows, **self._draw(module, following, some, *stream))
            for some, stream in _draws(following)
        ]
        self._overlap.ask(module.policy, calls, trainer.global_step)

    def on_train_epoch_end(self, *arguments: Any, **options: Any) -> None:
        """Leave nothing on its way beyond a stage or a failure."""
        if self._overlap is not None:
            self._overlap.drop()

    def on_exception(self, *arguments: Any, **options: Any) -> None:
        """Leave nothing on its way, and the engine as somebody else can use it."""
        self.on_train_epoch_end()
        if (leave := getattr(self.engine, "leave", None)) is not None:
            leave()

    teardown = on_exception

    def _roll(self, trainer: pl.Trainer, module: Any, batch: PromptBatch, collected: Collected | None) -> None:
        if imitates(module):
            rollouts = reference_rollouts(batch.rows, module.tokenizer, module.device, _template_options(module))
        else:
            with self._holding(module) if collected is None else nullcontext():
                rollouts = self._train_rollouts(trainer, module, batch, collected)
        prepare: Callable[[Rollouts], LossBatch] = getattr(module, "prepare_rollouts", LossBatch.of)
        window = prepare(rollouts)
        if window.teacher_prompt_ids is not None:
            rollouts.taught = [prompt is not None for prompt in window.teacher_prompt_ids]
        self._contributing = weigh(trainer, module, window)
        self._slices = window.slices(batch.slots)
        _show(trainer, module, rollouts, task=batch.task.name, split="train", stage=batch.stage)

    def _train_rollouts(
        self, trainer: pl.Trainer, module: Any, batch: PromptBatch, collected: Collected | None
    ) -> Rollouts:
        """The window's completions, flat groups replaced and earlier tasks' completions added where asked for."""
        engines = iter(() if collected is None else collected.engines)

        def draw(some: PromptBatch, *stream: str | int) -> Generation:
            options = self._draw(module, batch, some, *stream)
            return self._generate(trainer, module, some, engine=next(engines, self.engine), **options)

        made = draw(batch)
        if collected is not None:
            made = replace(made, sampling_seconds=collected.seconds)
        log_rollouts(trainer, module, batch.task.name, made)
        if self._overlap is not None:
            self._overlap.log(trainer, module, collected)
        share = self._failure_share(trainer, module, made.rollouts.verdicts)
        module.log("rollout/failures/verifier", share, on_step=True, on_epoch=False, batch_size=1)
        rollouts = made.rollouts
        for number in range(self.resample_rounds if batch.spare else 0):
            if len(uneven_groups(rollouts)) == len(batch):
                break
            more = draw(batch.spare(number), "spare", number).rollouts  # type: ignore[misc]
            rollouts = with_uneven_groups(rollouts, more)
        replays = [draw(some, *stream).rollouts for some, stream in _draws(batch)[1:]]
        for replay in replays:
            replay.replayed = torch.ones_like(replay.rewards, dtype=torch.bool)
        return Rollouts.cat([rollouts, *replays]) if replays else rollouts

    def _draw(self, module: Any, window: PromptBatch, some: PromptBatch, *stream: str | int) -> dict[str, Any]:
        """How completions to some prompts of a window are drawn."""
        return {
            "num_generations": self.num_generations,
            "sampling": self.sampling,
            "seed": self.seed,
            "stream": ("train", window.stage, window.step, *stream),
            "names": [str(position) for position in some.positions],
            "template_options": _template_options(module),
        }

    def _failure_share(self, trainer: pl.Trainer, module: Any, verdicts: list[Verdict]) -> float:
        """Share of verdicts over all ranks that are failures; the run stops on all of them where it is too high."""
        own = torch.tensor([count_failures(verdicts), len(verdicts)], device=module.device)
        failed, seen = trainer.strategy.reduce(own, reduce_op="sum").tolist()
        self.failures.add(failed, seen)
        return failed / max(seen, 1)

    # ------------------------------------------------------------------------------------------------------- evaluation
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new evaluation; its batches may be more on one process than on another."""
        self._held.enter_context(self._holding(pl_module))
        self._evaluation = EvaluationScores(pl_module.device)
        self._evaluated = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Generate for some evaluation prompts and keep their scores; ``test`` uses the final test split."""
        split = "test" if trainer.testing else "validation"
        made = self._generate(
            trainer,
            pl_module,
            batch,
            engine=self.engine,
            num_generations=batch.num_generations or self.num_generations,
            sampling=self.evaluation_sampling,
            seed=self.seed,
            stream=(split, batch.task.name),
            template_options=_template_options(pl_module),
        )
        self._evaluation.add(batch, made.rollouts)
        self._evaluated += made.rollouts.verdicts
        _show(trainer, pl_module, made.rollouts, task=batch.task.name, split=split, stage=trainer.current_epoch)

    on_test_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was measured, per task."""
        self._held.close()
        prefix, loaders = ("test", trainer.test_dataloaders) if trainer.testing else ("val", trainer.val_dataloaders)
        self._failure_share(trainer, pl_module, self._evaluated)
        self.item_scores = self._evaluation.log(pl_module, prefix, loaders, trainer.global_step)  # type: ignore[arg-type]

    on_test_epoch_end = on_validation_epoch_end

    def _holding(self, module: Any) -> AbstractContextManager[Any]:
        """What the engine needs around all its calls on the same weights, if anything."""
        hold = getattr(self.engine, "holding", None)
        return nullcontext() if hold is None else hold(module.policy)  # type: ignore[no-any-return]

    def _generate(self, trainer: pl.Trainer, module: Any, batch: PromptBatch, **options: Any) -> Generation:
        return generate(
            module.policy,
            module.tokenizer,
            batch.task,
            batch.rows,
            rewards=self.rewards,
            autocast=trainer.precision_plugin.forward_context(),
            **options,
        )


def _draws(batch: PromptBatch) -> list[tuple[PromptBatch, tuple[str, ...]]]:
    """All prompts that a window's completions are drawn for, with what sets each draw apart from the first."""
    return [(batch, ()), *((replay, ("replay", replay.task.name)) for replay in batch.replays)]


def _template_options(module: Any) -> dict[str, Any] | None:
    return getattr(module, "chat_template_options", None)


def _show(trainer: pl.Trainer, module: Any, rollouts: Rollouts, *, task: str, split: str, stage: int) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (look := getattr(callback, "on_rollouts", None)) is not None:
            look(trainer, module, rollouts, task=task, split=split, stage=stage, step=trainer.global_step)
