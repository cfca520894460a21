"""Generation and scoring, for training and evaluation alike: the only place where text is produced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.functional.reduce import Totals, count, token_weights
from lit_sdpo.metrics.items import ItemAccuracy
from lit_sdpo.policies.load import end_token_ids, render
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import Scores, WeightedRewards
from lit_sdpo.rollouts.engine import NativeEngine
from lit_sdpo.rollouts.prompts import PromptBatch
from lit_sdpo.rollouts.reference import reference_completions
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.types import Completions, LossBatch, RolloutEngine, Rollouts, Sampling
from lit_sdpo.seed import run_seed

#: Rows of a generated or very large split that are checked against the prompt budget before the first step.
CHECKED_ROWS = 20_000


class RolloutCallback(Callback):
    """Fills each batch of prompts with scored completions before the module sees it.

    At the first slot of a window it generates for all prompts of the step with the current weights, scores the
    completions, lets the module prepare them (advantages, teacher contexts), counts the active tokens over all ranks and
    cuts the rows into one slice per slot. In evaluation it generates, scores and logs ``val/<task>/accuracy``, ``length``,
    ``truncated`` and ``invalid``. What is sampled for a prompt depends on the seed, the stage, the step and the prompt's
    place alone; in evaluation on the seed, the task and the item, so the same draws are compared over time.

    It asks a LightningModule for ``policy``, ``tokenizer`` and optionally ``prepare_rollouts(rollouts) -> LossBatch``,
    ``learns_from = "reference"`` (train on reference answers), ``aggregation`` and ``chat_template_options``. Callbacks
    with a method ``on_rollouts`` get to see everything that was generated.

    Args:
        num_generations: Completions per prompt, G (the paper: 8).
        sampling: How completions are drawn in training (the paper: temperature 1, at most 14,336 tokens).
        evaluation_sampling: The same in evaluation; ``None`` uses ``sampling``.
        engine: What generates; ``None`` is the native engine.
        rewards: How the verifier and further rewards are combined; ``None`` is the verifier alone.
        max_prompt_tokens: Longest allowed prompt (the paper: 2,048). A longer one is an error before the first step.
        seed: Seed of everything that is sampled; ``None`` takes that of ``seed_everything``.

    Raises:
        UserError: The module lacks what is needed, or a prompt exceeds the budget.
    """

    def __init__(
        self,
        num_generations: int = 8,
        sampling: Sampling | None = None,
        evaluation_sampling: Sampling | None = None,
        engine: RolloutEngine | None = None,
        rewards: WeightedRewards | None = None,
        max_prompt_tokens: int = 2048,
        seed: int | None = None,
    ) -> None:
        if num_generations < 1:
            raise ValueError(f"num_generations must be at least 1, got {num_generations}")
        self.num_generations = num_generations
        self.sampling = sampling or Sampling()
        self.evaluation_sampling = evaluation_sampling or self.sampling
        self.engine = engine or NativeEngine()
        self.rewards = rewards or WeightedRewards()
        self.max_prompt_tokens = max_prompt_tokens
        self.seed = run_seed(seed)
        #: Mean score of each item in the last evaluation: task -> item id -> score.
        self.item_scores: dict[str, dict[str, float]] = {}
        self._slices: list[LossBatch] = []
        self._contributing = torch.zeros(())
        self._evaluation: dict[str, _TaskEvaluation] = {}

    # ------------------------------------------------------------------------------------------------- before the run
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the module, and every prompt against the budget."""
        for name in ("policy", "tokenizer"):
            if not hasattr(pl_module, name):
                raise UserError(
                    f"{type(pl_module).__name__} has no attribute {name!r}, which rollouts need", where="model"
                )
        data = getattr(trainer, "datamodule", None)
        for where, rows in data.all_rows(stage) if hasattr(data, "all_rows") else ():
            for n in range(min(len(rows), CHECKED_ROWS)):
                self._check_length(pl_module, rows[n].id, where, self._render(pl_module, rows[n].messages))

    def _check_length(self, module: Any, row_id: str, where: str, ids: list[int]) -> None:
        limit = getattr(module.tokenizer, "model_max_length", None) or 1 << 60
        if len(ids) > self.max_prompt_tokens:
            raise UserError(
                f"the prompt of row {row_id!r} has {len(ids)} tokens, more than max_prompt_tokens = {self.max_prompt_tokens}",
                where=where,
                fix="raise max_prompt_tokens of the RolloutCallback or leave the row out",
            )
        if len(ids) + self.sampling.max_new_tokens > limit:
            raise UserError(
                f"prompt ({len(ids)} tokens) and completion (up to {self.sampling.max_new_tokens}) exceed the {limit} tokens"
                " that the model can read",
                where=f"{where}, row {row_id!r}",
                fix="lower sampling.max_new_tokens",
            )

    # --------------------------------------------------------------------------------------------------------- training
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Generate once per window, then hand slice k to slot k."""
        if batch.slot == 0:
            if batch.update == 0:
                self._roll(trainer, pl_module, batch)
            elif not self._slices:
                raise RuntimeError("the rollouts of this window are gone: resume from a checkpoint between rollouts")
            for piece in self._slices:
                piece.fresh = batch.update == 0
        batch.loss = self._slices[batch.slot]
        batch.contributing_rows = self._contributing

    def _roll(self, trainer: pl.Trainer, module: Any, batch: PromptBatch) -> None:
        started = time.perf_counter()
        if getattr(module, "learns_from", "policy") == "reference":
            rollouts = self._references(module, batch)
        else:
            key = ("train", batch.stage, batch.step)
            places = [str(position) for position in batch.positions]
            rollouts = self._rollouts(trainer, module, batch, self.num_generations, self.sampling, key, places)
            self._log_rollouts(trainer, module, batch, rollouts, time.perf_counter() - started)
        prepare: Callable[[Rollouts], LossBatch] = getattr(module, "prepare_rollouts", LossBatch.of)
        window = prepare(rollouts)
        self._normalise(trainer, module, window)
        self._slices = window.slices(batch.slots)
        self._show(trainer, module, rollouts, batch.task.name, "train", batch.stage, batch.step)

    def _normalise(self, trainer: pl.Trainer, module: Any, window: LossBatch) -> None:
        """Set the weights from the counts of active tokens and rows over all ranks."""
        counts = [*count(window.active), window.contributes.sum()]
        counts = torch.stack([torch.as_tensor(n, device=window.active.device).double() for n in counts])
        *totals, self._contributing = trainer.strategy.reduce(counts, reduce_op="sum")
        aggregation = getattr(module, "aggregation", "token_mean")
        window.weights = token_weights(window.active, aggregation, totals=Totals(*totals))

    def _references(self, module: Any, batch: PromptBatch) -> Rollouts:
        completions = reference_completions(batch.rows, module.tokenizer, module.device)
        return Rollouts(
            rows=batch.rows,
            prompt_ids=[self._render(module, row.messages) for row in batch.rows],
            num_generations=1,
            completions=completions,
            texts=[row.reference or "" for row in batch.rows],
            verdicts=[],
            rewards=torch.full((len(batch),), torch.nan, device=module.device),
        )

    # ------------------------------------------------------------------------------------------------------- evaluation
    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Generate for some evaluation prompts and keep their scores."""
        self._evaluate(trainer, pl_module, batch, "validation")

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The same on the final test split."""
        self._evaluate(trainer, pl_module, batch, "test")

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: PromptBatch, split: str) -> None:
        generations = batch.num_generations or self.num_generations
        key = (split, batch.task.name)
        rollouts = self._rollouts(
            trainer, module, batch, generations, self.evaluation_sampling, key, [row.id for row in batch.rows]
        )
        self._evaluation.setdefault(batch.task.name, _TaskEvaluation(module.device)).add(batch, rollouts)
        self._show(trainer, module, rollouts, batch.task.name, split, trainer.current_epoch, trainer.global_step)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new evaluation."""
        self._evaluation = {}
        self._started = time.perf_counter()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was measured, per task."""
        self._log_evaluation(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was measured, per task."""
        self._log_evaluation(trainer, pl_module, "test")

    def _log_evaluation(self, trainer: pl.Trainer, module: pl.LightningModule, prefix: str) -> None:
        self.item_scores = {}
        loaders = trainer.val_dataloaders if prefix == "val" else trainer.test_dataloaders
        for loader in loaders or ():
            name, ids = loader.task.name, [row.id for row in loader.rows]
            measured = self._evaluation.get(name) or _TaskEvaluation(module.device)
            for key, value in measured.compute().items():
                module.log(f"{prefix}/{name}/{key}", value, add_dataloader_idx=False)
            self.item_scores[name] = {ids[i]: score for i, score in measured.accuracy.item_scores().items()}
        module.log("time/evaluation", time.perf_counter() - self._started)
        # Lightning would place the point one step too early.
        module.log("step", float(trainer.global_step))

    # -------------------------------------------------------------------------------------------------------- generating
    def _rollouts(
        self,
        trainer: pl.Trainer,
        module: Any,
        batch: PromptBatch,
        generations: int,
        sampling: Sampling,
        key: tuple[str | int, ...],
        names: Sequence[str],
    ) -> Rollouts:
        prompt_ids = [self._render(module, row.messages) for row in batch.rows]
        seeds = sample_seeds(self.seed, *key, item_ids=names, num_generations=generations).to(module.device)
        with _generating(module.policy), torch.no_grad(), trainer.precision_plugin.forward_context():
            completions = self.engine.generate(
                module.policy,
                prompt_ids,
                num_generations=generations,
                sampling=sampling,
                seeds=seeds,
                end_ids=end_token_ids(module.policy, module.tokenizer),
                pad_id=module.tokenizer.pad_token_id,
            )
        texts = decode(module.tokenizer, completions)
        rows = [row for row in batch.rows for _ in range(generations)]
        started = time.perf_counter()
        verdicts = [batch.task.verify(text, row) for text, row in zip(texts, rows, strict=True)]
        scores = self._score(rows, texts, verdicts, completions)
        self._reward_seconds, self._scores = time.perf_counter() - started, scores
        return Rollouts(
            rows=batch.rows,
            prompt_ids=prompt_ids,
            num_generations=generations,
            completions=completions,
            texts=texts,
            verdicts=verdicts,
            rewards=scores.rewards.to(module.device),
            temperature=sampling.temperature,
        )

    def _score(self, rows: list[Row], texts: list[str], verdicts: list[Verdict], completions: Completions) -> Scores:
        # TRL hands chat completions to its rewards as messages.
        return self.rewards(
            verdicts,
            [list(row.messages) for row in rows],
            [[{"role": "assistant", "content": text}] for text in texts],
            token_lists(completions),
            ground_truth=[row.ground_truth for row in rows],
            id=[row.id for row in rows],
            extra=[row.extra for row in rows],
        )

    def _render(self, module: Any, messages: Any) -> list[int]:
        return render(module.tokenizer, messages, getattr(module, "chat_template_options", None))

    def _log_rollouts(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: PromptBatch, rollouts: Rollouts, seconds: float
    ) -> None:
        lengths, rewards = rollouts.completions.lengths.float(), rollouts.rewards
        groups = rewards.view(-1, rollouts.num_generations)
        values: dict[str, Any] = {
            "rollout/reward": rewards.nanmean(),
            "rollout/abstained": rewards.isnan().float().mean(),
            "rollout/entropy": -rollouts.completions.logprobs.sum() / lengths.sum(),
            "rollout/length": lengths.mean(),
            "rollout/truncated": (~rollouts.completions.finished).float().mean(),
            "rollout/flat_groups": (groups.amax(1) == groups.amin(1)).float().mean(),
            "rollout/tokens_per_second": lengths.sum() / max(seconds - self._reward_seconds, 1e-9),
            "time/rollout": seconds - self._reward_seconds,
            "time/reward": self._reward_seconds,
        }
        values |= {f"rollout/reward/{name}": value for name, value in self._scores.means.items()}
        values |= {
            f"rollout/{batch.task.name}/{key}": values[f"rollout/{key}"] for key in ("reward", "length", "truncated")
        }
        for key, value in values.items():
            module.log(key, value, on_step=True, batch_size=len(batch), sync_dist=trainer.world_size > 1)

    def _show(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        rollouts: Rollouts,
        task: str,
        split: str,
        stage: int,
        step: int,
    ) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if (look := getattr(callback, "on_rollouts", None)) is not None:
                look(trainer, module, rollouts, task=task, split=split, stage=stage, step=step)


class _TaskEvaluation:
    """Scores, lengths and flags of one task in one evaluation."""

    def __init__(self, device: torch.device) -> None:
        self.accuracy = ItemAccuracy().to(device)
        self.length = ItemAccuracy().to(device)
        self.truncated = ItemAccuracy().to(device)
        self.invalid = ItemAccuracy().to(device)

    def add(self, batch: PromptBatch, rollouts: Rollouts) -> None:
        generations = rollouts.num_generations
        device = rollouts.rewards.device
        item = torch.tensor(list(batch.positions), device=device).repeat_interleave(generations)
        sample = torch.arange(generations, device=device).repeat(len(batch))
        scores = torch.tensor([torch.nan if v.score is None else v.score for v in rollouts.verdicts], device=device)
        judged = ~scores.isnan()
        invalid = torch.tensor(["no_answer" in v.flags for v in rollouts.verdicts], device=device)
        self.accuracy.update(item[judged], sample[judged], scores[judged])
        self.length.update(item, sample, rollouts.completions.lengths.float())
        self.truncated.update(item, sample, (~rollouts.completions.finished).float())
        self.invalid.update(item, sample, invalid.float())

    def compute(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).compute() for name in ("accuracy", "length", "truncated", "invalid")}


def token_lists(completions: Completions) -> list[list[int]]:
    """The sampled tokens of each row, without padding."""
    return [row[:n] for row, n in zip(completions.ids.tolist(), completions.lengths.tolist(), strict=True)]


def decode(tokenizer: Any, completions: Completions) -> list[str]:
    """Text of each completion, special tokens left out."""
    return tokenizer.batch_decode(token_lists(completions), skip_special_tokens=True)


@contextmanager
def _generating(policy: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside, every submodule's own mode restored after; gradient checkpointing breaks the cache in train mode."""
    modes = {module: module.training for module in policy.modules()}
    policy.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
