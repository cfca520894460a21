"""The callback that fills batches of prompts with scored completions: its arguments, its checks, its hooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from lit_sdpo.callbacks.rollout.checks import (
    check_clipping,
    check_correction,
    check_cut,
    check_engine,
    check_likelihood,
    check_module,
    check_overlap,
    check_replay,
    check_rewards,
    check_slots,
    learns_from_references,
)
from lit_sdpo.callbacks.rollout.evaluation import EvaluationRollouts
from lit_sdpo.callbacks.rollout.overlap import Overlap
from lit_sdpo.callbacks.rollout.prompt_budget import PromptBudget
from lit_sdpo.callbacks.rollout.trainer_state import trainer_state
from lit_sdpo.callbacks.rollout.window import WindowRollouts
from lit_sdpo.data.base import TaskStream, stream_of
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.data.stream import EvaluationLoader
from lit_sdpo.data.task import Row, Task
from lit_sdpo.likelihood.loader import LikelihoodBatch
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.policies.held import positions
from lit_sdpo.policies.memory import Block, Window
from lit_sdpo.ranges import check_integer, check_seed, check_share
from lit_sdpo.rewards.combine import RewardFunction, WeightedRewards
from lit_sdpo.rewards.failures import FailureLimit
from lit_sdpo.rollouts.blocks import at_once
from lit_sdpo.rollouts.engines.base import RolloutEngine, Sampling
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.generate import Generation, GenerationSettings, generate
from lit_sdpo.rollouts.mismatch import Correction
from lit_sdpo.rollouts.reference import reference_ids, reference_rollouts
from lit_sdpo.rollouts.texts import opened_by_template
from lit_sdpo.rollouts.types import Rollouts
from lit_sdpo.seed import run_seed


class RolloutCallback(Callback):
    """Fills each batch of prompts with scored completions before the module sees it.

    At the first slot of a window it generates for all prompts of the step with the current weights, scores the
    completions, lets the module prepare them (advantages, teacher contexts), counts the active tokens over all ranks
    and cuts the rows into one slice per slot. In evaluation it generates, scores and logs ``val/<task>/accuracy``,
    ``length``, ``truncated`` and ``invalid``. What is sampled for a prompt depends on the seed, the stage, the step and
    the prompt's place alone; in evaluation on the seed, the task and the item, so the same draws are compared over
    time.

    The module is a :class:`~lit_sdpo.RolloutModule`, whose docstring says what it gives; what the data module gives is
    said by :class:`~lit_sdpo.TaskStream`. Callbacks with a method ``on_rollouts`` get to see everything that was
    generated; its ``step`` is the number of optimizer steps taken before.

    Args:
        num_generations: Completions per prompt, G (the paper: 8).
        sampling: How completions are drawn in training (the paper: temperature 1, at most 14,336 tokens).
        evaluation_sampling: The same in evaluation; ``None`` uses ``sampling``.
        engine: What generates; ``None`` is the native engine.
        rewards: What shapes the reward beside the verifier, or without one: a function with TRL's signature, a list of
            them, as objects or import paths, or a :class:`~lit_sdpo.WeightedRewards`; ``None`` is the verifier alone.
        reward_weights: Weight of each reward, in their order or by name; the verifier is called ``verifier``. ``None``
            is 1 for each.
        resample_rounds: Dynamic sampling (arXiv:2503.14476): up to this many times, groups whose rewards are all equal
            are replaced by groups of further prompts. Each rank decides for its own prompts.
        max_prompt_tokens: Longest allowed prompt (the paper: 2,048). A longer one is an error before the first step.
        seed: Seed of everything that is sampled; ``None`` takes that of ``seed_everything``.
        max_verifier_failures: Highest share of completions on which the verifier may raise, hang or crash, over at
            least 50 of them; such completions have no score.
        overlap: Draw the next window's completions while this one's update runs; their weights are then one optimizer
            step old. Needs an engine with a server; see ``docs/vllm.md``.
        correction: What losses make of the difference between engine and policy, where the engine is another program:
            ``weight`` multiplies them with ``min(π / π_engine, 2)`` and takes ratios between policies, as the code of
            arXiv:2607.01763 does; ``ratio`` takes the ratios against the engine. See ``docs/vllm.md``.

    Raises:
        UserError: The module lacks what is needed, a prompt exceeds the budget, prompt and completion exceed what
            tokenizer or model can read, or the verifier fails too often. The engine is no :class:`RolloutEngine`.
    """

    def __init__(
        self,
        num_generations: int = 8,
        sampling: Sampling | None = None,
        evaluation_sampling: Sampling | None = None,
        engine: RolloutEngine | None = None,
        rewards: WeightedRewards | str | list[str | RewardFunction] | RewardFunction | None = None,
        resample_rounds: int = 0,
        max_prompt_tokens: int = 2048,
        seed: int | None = None,
        max_verifier_failures: float = 0.05,
        overlap: bool = False,
        correction: Correction = "weight",
        reward_weights: list[float] | dict[str, float] | None = None,
    ) -> None:
        self.num_generations = check_integer("num_generations", num_generations, at_least=1)
        if correction not in get_args(Correction):
            raise ValueError(f"correction is one of {', '.join(get_args(Correction))}, got {correction!r}")
        self.sampling = sampling or Sampling()
        self.evaluation_sampling = evaluation_sampling or self.sampling
        self.engine = NativeEngine() if engine is None else engine
        check_engine(self.engine)
        self.rewards = WeightedRewards.of(rewards, reward_weights)
        self.resample_rounds = check_integer("resample_rounds", resample_rounds)
        self.max_prompt_tokens = check_integer("max_prompt_tokens", max_prompt_tokens, at_least=1)
        self.seed = run_seed(check_seed("seed", seed, optional=True))
        check_share("max_verifier_failures", max_verifier_failures)
        self.failures = FailureLimit(max_verifier_failures)
        #: Scores of the samples of each item in the last evaluation, by task and item id.
        self.item_scores: dict[str, dict[str, list[float]]] = {}
        self._budget = PromptBudget(max_prompt_tokens)
        self._held = ExitStack()
        self._overlap = Overlap(self.engine) if overlap else None
        self.correction = correction
        self._training: WindowRollouts  # from setup on
        self._evaluation: EvaluationRollouts  # from its start on

    # ------------------------------------------------------------------------------------------------- before the run
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the module, and every prompt against the budget."""
        module, data = check_module(pl_module), stream_of(trainer)
        check_clipping(trainer)
        check_replay(trainer, module, self.resample_rounds)
        check_likelihood(trainer)
        if self._overlap is not None:
            check_overlap(self.engine, module, self.resample_rounds)
        elif self.correction == "ratio":
            check_correction(self.engine, module)
        self._training = WindowRollouts(
            self._generate,
            self.engine,
            self._draw(module, self.sampling),
            self.failures,
            self.resample_rounds,
            self._overlap,
            self.correction,
        )
        self.read_prompts(data, module, stage)
        self._budget.check(module.tokenizer.model_max_length)
        check_rewards(self.rewards, data, module, stage)
        if stage == "fit":
            check_cut(self.window(data, module, trainer.world_size).rows, trainer.accumulate_grad_batches)

    def read_prompts(self, data: TaskStream, module: RolloutModule, stage: str = "fit") -> None:
        """Look at every prompt of a run, and at every reference answer where these are learned.

        Args:
            data: The stream.
            module: The method.
            stage: ``fit``, ``validate`` or ``test``.

        Raises:
            UserError: A prompt exceeds the budget, or the template cannot write it.
        """
        self._budget = PromptBudget(self.max_prompt_tokens)
        options, imitates = module.chat_template_options, learns_from_references(module)
        opened = opened_by_template(module.tokenizer, options) if imitates else None
        for task, split, rows in data.row_sets(stage):
            trained = split == "train"
            sampling = self.sampling if trained else self.evaluation_sampling

            def completion(row: Row, trained: bool = trained, most: int = sampling.max_new_tokens) -> int:
                return len(reference_ids(row, module.tokenizer, opened)) if trained and imitates else most

            self._budget.add(module.tokenizer, options, task, split, rows, completion)

    def window(self, data: TaskStream, module: RolloutModule, processes: int, evaluates: bool = True) -> Window:
        """Most that a step of one of some processes can hold, and what the policy decodes at once there.

        Prompts are as long as the longest that was read, or as ``max_prompt_tokens`` where none was.

        Args:
            data: The stream.
            module: The method.
            processes: Among which prompts are divided.
            evaluates: Whether the run has evaluations.
        """
        prompts = -(-max((stage.prompts_per_step for stage in data.stages), default=1) // processes)
        prompts += math.ceil(data.replay_share * prompts)
        samples = not learns_from_references(module)
        prompt, completion = self._budget.longest.get("train", (self.max_prompt_tokens, self.sampling.max_new_tokens))
        blocks = []
        if samples:
            blocks.append((prompts, self.num_generations, prompt, completion))
        if evaluates and (rows := max((len(data.evaluation_rows(task)) for task in data.evaluated), default=0)):
            longest = [most for split, (most, _) in self._budget.longest.items() if split != "train"]
            some = min(data.eval_batch_size, -(-rows // processes))
            most = max(longest, default=self.max_prompt_tokens)
            blocks.append((some, data.eval_generations, most, self.evaluation_sampling.max_new_tokens))
        decoded = (Block(*at_once(p, g, self.engine.max_rows), *lengths) for p, g, *lengths in blocks)
        return Window(
            prompts=prompts,
            rows=prompts * (self.num_generations if samples else 1),
            prompt=prompt,
            completion=completion,
            read="train" in self._budget.longest,
            blocks=() if self.engine.can_ask_ahead else tuple(decoded),  # a server has its own memory
            temperature=self.sampling.temperature or 1.0,
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the longest prompt and completion against the policy, which is loaded by now."""
        self._budget.check(positions(check_module(pl_module).policy))

    on_validation_start = on_fit_start
    on_test_start = on_fit_start

    # --------------------------------------------------------------------------------------------------------- training
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Generate once per window, then hand slice k to slot k."""
        # ModelCheckpoint prefers a metric "step", which would be the last evaluation's, to the real one.
        trainer.callback_metrics.pop("step", None)
        check_slots(trainer, batch.slots)
        if batch.slot == 0:
            self._training.begin(trainer, check_module(pl_module), batch)
        self._training.hand_out(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Log how far the engine that sampled is from the policy, which its window's first update has found out."""
        mismatch, last = self._training.mismatch, batch.slot == batch.slots - 1
        # In any update: steps that are logged need not be first ones.
        if mismatch is not None and last and pl_module.log_due:
            mismatch.log(trainer, pl_module)

    def on_train_epoch_end(self, *arguments: Any, **options: Any) -> None:
        """Leave nothing on its way beyond a stage or a failure."""
        if self._overlap is not None:
            self._overlap.drop()

    def on_exception(self, *arguments: Any, **options: Any) -> None:
        """Leave nothing on its way, and the engine as somebody else can use it."""
        self.on_train_epoch_end()
        self.engine.leave()

    teardown = on_exception

    # ------------------------------------------------------------------------------------------------------- evaluation
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new evaluation; its batches may be more on one process than on another."""
        module = check_module(pl_module)
        self._held.enter_context(self.engine.holding(module.policy))
        self._evaluation = self._new_evaluation(module)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: PromptBatch | LikelihoodBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Generate for some evaluation prompts and keep their scores; ``test`` uses the final test split."""
        if isinstance(batch, PromptBatch):
            self._evaluation.add(trainer, pl_module, batch)

    on_test_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was measured, per task."""
        self._held.close()
        self.item_scores = self._evaluation.log(trainer, pl_module)

    on_test_epoch_end = on_validation_epoch_end

    def success_rates(
        self, trainer: pl.Trainer, module: RolloutModule, loaders: Sequence[EvaluationLoader]
    ) -> list[float]:
        """Mean verifier's score over all prompts of each loader, with the weights as they are now.

        The completions are drawn as in every evaluation of the validation split, so that weights are compared on the
        same draws; nothing is logged and no callback is shown anything. All ranks call it together.

        Returns:
            One number for each loader, nan where the verifier scored nothing.
        """
        evaluation = self._new_evaluation(module)
        sums = torch.zeros(len(loaders), 2, device=module.device)
        with self.engine.holding(module.policy):
            for own, loader in zip(sums, loaders, strict=True):
                for batch in loader:
                    scores = evaluation.rollouts(trainer, module, batch, "validation").scores
                    own += torch.stack([scores.nansum(), (~scores.isnan()).sum()])
        scored, known = trainer.strategy.reduce(sums, reduce_op="sum").T
        return (scored / known).tolist()  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------------------------ apart
    @property
    def asks_ahead(self) -> bool:
        """Whether the engine may be busy with the next window's completions between two steps."""
        return self._overlap is not None

    def apart(
        self, trainer: pl.Trainer, module: RolloutModule, task: Task, rows: Sequence[Row], *stream: str | int
    ) -> Rollouts:
        """Scored completions to prompts that belong to no window, drawn as training draws, or their reference answers.

        Nothing is logged, counted as a failure or shown to a callback.

        Args:
            trainer: Of the run.
            module: The method.
            task: Verifies the completions.
            rows: The P prompts.
            stream: What sets these draws apart from all others; within it a row's id decides.
        """
        draw = replace(self._draw(module, self.sampling), stream=stream)
        if learns_from_references(module):
            rollouts = reference_rollouts(rows, module.tokenizer, module.device, draw.template_options)
            rollouts.tasks = [task.part_of(row).name for row in rows]
            return rollouts
        with self.engine.holding(module.policy):
            return self._generate(trainer, module, PromptBatch(task, rows, range(len(rows))), draw).rollouts

    # ------------------------------------------------------------------------------------------------------------- both
    def _new_evaluation(self, module: RolloutModule) -> EvaluationRollouts:
        draw = self._draw(module, self.evaluation_sampling)
        return EvaluationRollouts(self._generate, draw, self.failures, module.device, self.rewards.further)

    def _draw(self, module: RolloutModule, sampling: Sampling) -> GenerationSettings:
        """What all draws of a run have in common."""
        options = module.chat_template_options
        return GenerationSettings(self.num_generations, sampling, self.seed, template_options=options)

    def _generate(
        self,
        trainer: pl.Trainer,
        module: RolloutModule,
        batch: PromptBatch,
        draw: GenerationSettings,
        engine: RolloutEngine | None = None,
    ) -> Generation:
        """Completions to some prompts, scored: the only place where text is produced."""
        return generate(
            module.policy,
            module.tokenizer,
            batch.task,
            batch.rows,
            draw,
            engine=engine or self.engine,
            rewards=self.rewards,
            autocast=trainer.precision_plugin.forward_context(),
            trainer_state=trainer_state(trainer) if self.rewards.components else None,
        )


def rollouts_in(trainer: pl.Trainer) -> RolloutCallback | None:
    """The callback that samples for a trainer; ``None`` where nothing does."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, RolloutCallback)), None)
