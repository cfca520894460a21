"""The window that is trained on: drawn and scored at its first slot, handed out slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import lightning.pytorch as pl
import torch

from lit_sdpo.callbacks.rollout.checks import failure_share, learns_from_references
from lit_sdpo.callbacks.rollout.log import call_on_rollouts, log_rollouts, log_told
from lit_sdpo.callbacks.rollout.overlap import Collected, Overlap
from lit_sdpo.callbacks.rollout.token_weights import set_token_weights
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.errors import UserError
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.rewards.failures import FailureLimit
from lit_sdpo.rollouts.dynamic_sampling import uneven_groups, with_uneven_groups
from lit_sdpo.rollouts.engines.base import RolloutEngine
from lit_sdpo.rollouts.generate import Generation, GenerationSettings, engine_request
from lit_sdpo.rollouts.mismatch import Correction, Mismatch
from lit_sdpo.rollouts.reference import reference_rollouts
from lit_sdpo.rollouts.types import LossBatch, Rollouts


class WindowRollouts:
    """Fills one window after the other with scored completions, or with reference answers.

    What is sampled for a prompt depends on the seed, the stage, the step and the prompt's place alone.

    Args:
        generate: ``generate(trainer, module, batch, draw, engine)`` gives scored completions.
        engine: What draws them, but for those that were asked for ahead.
        draw: How they are drawn; stream and names are the window's.
        failures: How often verifiers may fail.
        resample_rounds: How often flat groups are replaced.
        overlap: Asks for the next window's completions ahead; ``None`` draws them when they are needed.
        correction: How losses use the difference between engine and policy, where there is one.

    Attributes:
        mismatch: How far the engine is from the policy in this window; ``None`` where the policy itself sampled.
    """

    def __init__(
        self,
        generate: Callable[..., Generation],
        engine: RolloutEngine,
        draw: GenerationSettings,
        failures: FailureLimit,
        resample_rounds: int = 0,
        overlap: Overlap | None = None,
        correction: Correction = "weight",
    ) -> None:
        self.generate, self.engine, self.draw, self.failures = generate, engine, draw, failures
        self.resample_rounds, self.overlap, self.correction = resample_rounds, overlap, correction
        self.mismatch: Mismatch | None = None
        self._slices: list[LossBatch] = []
        self._contributing = 0

    def begin(self, trainer: pl.Trainer, module: RolloutModule, batch: PromptBatch) -> None:
        """Have this step's rollouts, and the next ones asked for where that is wanted, as early as possible."""
        if batch.update == 0:
            self.mismatch = self._comparison(module)
        collected = None if self.overlap is None else self.overlap.collect()
        if collected is not None:
            self._ask_ahead(trainer, module, batch)
        if batch.update == 0:
            self._fill(trainer, module, batch, collected)
        if collected is None:
            self._ask_ahead(trainer, module, batch)

    def hand_out(self, batch: PromptBatch) -> None:
        """Give a slot its slice.

        Raises:
            UserError: The window was begun in another run.
        """
        if not self._slices:
            raise UserError(
                "the checkpoint was written between the rollouts of a window and their last use",
                where="ckpt_path",
                fix="resume from a checkpoint that was written before new rollouts",
            )
        batch.loss = self._slices[batch.slot]
        batch.loss.fresh, batch.loss.reused = batch.update == 0, batch.updates > 1
        batch.loss.mismatch = self.mismatch
        batch.contributing_rows = self._contributing

    def _comparison(self, module: RolloutModule) -> Mismatch | None:
        """What compares engine and policy in a new window: also where the engine had weights one update older."""
        if learns_from_references(module) or not (self.engine.mismatched or self.overlap is not None):
            return None
        return Mismatch(module.device, self.draw.sampling, self.engine.filter_order, self.correction)

    def _ask_ahead(self, trainer: pl.Trainer, module: RolloutModule, batch: PromptBatch) -> None:
        if self.overlap is None or (following := batch.following()) is None:
            return
        calls = [
            engine_request(module.policy, module.tokenizer, some.rows, draw) for some, draw in self._draws(following)
        ]
        self.overlap.ask(module.policy, calls, trainer.global_step)

    def _fill(
        self, trainer: pl.Trainer, module: RolloutModule, batch: PromptBatch, collected: Collected | None
    ) -> None:
        if learns_from_references(module):
            rollouts = reference_rollouts(batch.rows, module.tokenizer, module.device, self.draw.template_options)
            rollouts.tasks = [batch.task.part_of(row).name for row in batch.rows]
        else:
            with self.engine.holding(module.policy) if collected is None else nullcontext():
                rollouts = self._rollouts(trainer, module, batch, collected)
        window = module.prepare_rollouts(rollouts)
        if window.teacher_prompt_ids is not None:
            rollouts.taught = [prompt is not None for prompt in window.teacher_prompt_ids]
        rollouts.advantages = window.advantages
        self._contributing = set_token_weights(trainer, module, window)
        self._slices = window.slices(batch.slots)
        call_on_rollouts(trainer, module, rollouts, task=batch.task.name, split="train", stage=batch.stage)

    def _rollouts(
        self, trainer: pl.Trainer, module: RolloutModule, batch: PromptBatch, collected: Collected | None
    ) -> Rollouts:
        """The window's completions, flat groups replaced and earlier tasks' completions added where asked for."""
        engines = iter(() if collected is None else collected.engines)

        def generate(some: PromptBatch, draw: GenerationSettings) -> Generation:
            return self.generate(trainer, module, some, draw, engine=next(engines, self.engine))

        own, *replayed = self._draws(batch)
        made = generate(*own)
        if collected is not None:
            made = replace(made, sampling_seconds=collected.seconds)
        log_rollouts(trainer, module, batch.task.parts, made)
        if len(made.scores.components) > 1:
            log_told(trainer, module, made.scores.told.metrics)
        if self.overlap is not None:
            self.overlap.log(trainer, module, collected)
        share = failure_share(trainer, module, made.rollouts.verdicts, self.failures)
        module.log("rollout/failures/verifier", share, on_step=True, on_epoch=False, batch_size=1)
        rollouts = made.rollouts
        for number in range(self.resample_rounds if batch.spare else 0):
            if len(uneven_groups(rollouts)) == len(batch):
                break
            spare = batch.spare(number)  # type: ignore[misc]
            more = generate(spare, self._draw(batch, spare, "spare", number)).rollouts
            rollouts = with_uneven_groups(rollouts, more)
        replays = [generate(*some).rollouts for some in replayed]
        for replay in replays:
            replay.replayed = torch.ones_like(replay.rewards, dtype=torch.bool)
        return Rollouts.cat([rollouts, *replays]) if replays else rollouts

    def _draws(self, window: PromptBatch) -> list[tuple[PromptBatch, GenerationSettings]]:
        """All prompts that a window's completions are drawn for, its own first, and how."""
        replays = ((replay, self._draw(window, replay, "replay", replay.task.name)) for replay in window.replays)
        return [(window, self._draw(window, window)), *replays]

    def _draw(self, window: PromptBatch, some: PromptBatch, *stream: str | int) -> GenerationSettings:
        """How completions to some prompts of a window are drawn; the stream sets them apart from its own."""
        names = [str(position) for position in some.positions]
        return replace(self.draw, stream=("train", window.stage, window.step, *stream), names=names)
