"""One evaluation: completions to the evaluation prompts, their scores by item, what is logged of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from lit_sdpo.callbacks.rollout.checks import failure_share
from lit_sdpo.callbacks.rollout.log import call_on_rollouts, log_maximum, means_of_told
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.likelihood.loader import LikelihoodLoader
from lit_sdpo.metrics.items import ItemAccuracy
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.failures import FailureLimit
from lit_sdpo.rollouts.generate import Generation, GenerationSettings
from lit_sdpo.rollouts.types import Rollouts


class EvaluationRollouts:
    """From the first batch of an evaluation to its log; its batches may be more on one process than on another.

    What is sampled for an item depends on the seed, the split, the task and the item alone.

    Args:
        generate: ``generate(trainer, module, batch, draw)`` gives scored completions.
        draw: How they are drawn; the stream, and where it says so the number of completions, are the batch's.
        failures: How often verifiers may fail.
        device: Where scores are kept.
        rewarded: Something else than the verifier shapes the reward, so it is logged too.
    """

    def __init__(
        self,
        generate: Callable[..., Generation],
        draw: GenerationSettings,
        failures: FailureLimit,
        device: torch.device,
        rewarded: bool = False,
    ) -> None:
        self.generate, self.draw, self.failures, self.rewarded = generate, draw, failures, rewarded
        self._scores = EvaluationScores(device, rewarded)
        self._verdicts: list[Verdict] = []
        self._told: dict[str, list[float]] = {}

    def rollouts(self, trainer: pl.Trainer, module: pl.LightningModule, batch: PromptBatch, split: str) -> Rollouts:
        """Scored completions to some prompts of a split, which nobody is told of."""
        generations = batch.num_generations or self.draw.num_generations
        draw = replace(self.draw, num_generations=generations, stream=(split, batch.task.name))
        made = self.generate(trainer, module, batch, draw)
        for name, values in made.scores.told.metrics.items():
            self._told.setdefault(f"{batch.task.name}/metric/{name}", []).extend(values)
        return made.rollouts

    def add(self, trainer: pl.Trainer, module: pl.LightningModule, batch: PromptBatch) -> None:
        """Generate for some prompts and keep their scores; ``test`` uses the final test split."""
        split = "test" if trainer.testing else "validation"
        rollouts = self.rollouts(trainer, module, batch, split)
        self._scores.add(batch, rollouts)
        self._verdicts += rollouts.verdicts
        call_on_rollouts(trainer, module, rollouts, task=batch.task.name, split=split, stage=trainer.current_epoch)

    def log(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, dict[str, list[float]]]:
        """Log what was measured, per task; all ranks call it together.

        Returns:
            Scores of the samples of each item, by task and item id.

        Raises:
            UserError: The verifiers failed too often.
        """
        prefix, loaders = ("test", trainer.test_dataloaders) if trainer.testing else ("val", trainer.val_dataloaders)
        failure_share(trainer, module, self._verdicts, self.failures)
        if self.rewarded:
            for name, value in means_of_told(trainer, self._told).items():
                log_maximum(module, f"{prefix}/{name}", torch.tensor(value, device=module.device))
        return self._scores.log(module, prefix, loaders, trainer.global_step)  # type: ignore[arg-type]


#: What is logged of each task.
NAMES: tuple[str, ...] = ("accuracy", "length", "truncated", "invalid")


class EvaluationScores:
    """Scores, lengths and flags of every task in one evaluation."""

    def __init__(self, device: torch.device, rewarded: bool = False) -> None:
        self.device = device
        self.names = (*NAMES, "reward") if rewarded else NAMES
        self._metrics: dict[str, dict[str, ItemAccuracy]] = {}
        self._started = time.perf_counter()

    def add(self, batch: PromptBatch, rollouts: Rollouts) -> None:
        """Keep what some prompts of a task were scored."""
        generations = rollouts.num_generations
        item = torch.tensor(list(batch.positions), device=self.device).repeat_interleave(generations)
        sample = torch.arange(generations, device=self.device).repeat(len(batch))
        # The verifier's score alone: further rewards shape training, they are no accuracy.
        values = {
            "accuracy": rollouts.scores.to(self.device),
            "length": rollouts.completions.lengths.float(),
            "truncated": (~rollouts.completions.finished).float(),
            "invalid": torch.tensor([float("no_answer" in v.flags) for v in rollouts.verdicts], device=self.device),
            "reward": rollouts.rewards.to(self.device),
        }
        for key, metric in self._of(batch.task.name).items():
            metric.update(item, sample, values[key])

    def log(
        self, module: pl.LightningModule, prefix: str, loaders: Iterable[Any], step: int
    ) -> dict[str, dict[str, list[float]]]:
        """Log ``<prefix>/<task>/...`` for each loader's task; all ranks call it together.

        A loader has a ``task`` and its ``rows``.

        Returns:
            Scores of the samples of each item, by task and item id.
        """
        scores: dict[str, dict[str, list[float]]] = {}
        for loader in loaders:
            if isinstance(loader, LikelihoodLoader):
                continue  # nothing was generated for it
            name = loader.task.name
            for key, metric in self._of(name).items():
                log_maximum(module, f"{prefix}/{name}/{key}", metric.compute())
            found = self._of(name)["accuracy"].sample_scores()
            scores[name] = {loader.rows[i].id: score for i, score in found.items()}
        log_maximum(module, "time/evaluation", torch.tensor(time.perf_counter() - self._started, device=self.device))
        # Without it Lightning's point stands one step too early.
        log_maximum(module, "step", torch.tensor(float(step), device=self.device))
        return scores

    def _of(self, task: str) -> dict[str, ItemAccuracy]:
        if task not in self._metrics:
            self._metrics[task] = {name: ItemAccuracy().to(self.device) for name in self.names}
            nothing = torch.empty(0, device=self.device)
            for metric in self._metrics[task].values():
                metric.update(nothing, nothing, nothing)  # a rank without prompts computes too
        return self._metrics[task]
