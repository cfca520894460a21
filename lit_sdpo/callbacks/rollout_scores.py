"""What is kept and logged of rollouts: sums over all ranks in training, scores per item in evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_sdpo.metrics.items import ItemAccuracy
from lit_sdpo.rollouts.generate import Generation
from lit_sdpo.rollouts.prompts import PromptBatch
from lit_sdpo.rollouts.types import Rollouts


def log_rollouts(trainer: pl.Trainer, module: pl.LightningModule, task: str, generation: Generation) -> None:
    """Log means over the completions of all ranks; all ranks call it together, and it takes one reduction."""
    ratios = rollout_ratios(generation, trainer.world_size)
    ratios |= {f"{task}/{key}": ratios[key] for key in ("reward", "length", "truncated")}
    device = module.device
    pairs = [
        torch.stack([torch.as_tensor(x, dtype=torch.float32, device=device) for x in pair]) for pair in ratios.values()
    ]
    sums = trainer.strategy.reduce(torch.stack(pairs), reduce_op="sum")
    for key, value in zip(ratios, sums[:, 0] / sums[:, 1], strict=True):
        name = key if key.startswith("time/") else f"rollout/{key}"
        module.log(name, value, on_step=True, on_epoch=False, batch_size=1)


def rollout_ratios(generation: Generation, world_size: int = 1) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """Numerator and denominator of each logged value on this rank; both add up over ranks."""
    rollouts, completions = generation.rollouts, generation.rollouts.completions
    tokens, rows = completions.lengths.sum(), len(rollouts)
    # A group is flat where no two rewards that are known differ: there is nothing to reinforce.
    groups = rollouts.rewards.view(-1, rollouts.num_generations)
    highest, lowest = groups.nan_to_num(-torch.inf).amax(1), groups.nan_to_num(torch.inf).amin(1)
    ratios: dict[str, tuple[Tensor | float, Tensor | float]] = {
        "reward": _known(rollouts.rewards),
        "abstained": (rollouts.rewards.isnan().sum(), rows),
        "entropy": (-completions.logprobs[rollouts.completion_mask].sum(), tokens),
        "length": (tokens, rows),
        "truncated": ((~completions.finished).sum(), rows),
        "flat_groups": ((highest <= lowest).sum(), len(groups)),
        "tokens_per_second": (tokens, generation.sampling_seconds / world_size),
        "time/rollout": (generation.sampling_seconds, 1),
        "time/reward": (generation.reward_seconds, 1),
    }
    for name, values in generation.scores.components.items():
        ratios[f"reward/{name}"] = _known(values)
        if name != "verifier":
            ratios[f"failures/{name}"] = (generation.scores.failures[name], rows)
    return ratios


def _known(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.nansum(), (~values.isnan()).sum()


class EvaluationScores:
    """Scores, lengths and flags of every task in one evaluation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._metrics: dict[str, dict[str, ItemAccuracy]] = {}
        self._started = time.perf_counter()

    def add(self, batch: PromptBatch, rollouts: Rollouts) -> None:
        """Keep what some prompts of a task were scored."""
        generations = rollouts.num_generations
        item = torch.tensor(list(batch.positions), device=self.device).repeat_interleave(generations)
        sample = torch.arange(generations, device=self.device).repeat(len(batch))
        # The verifier's score alone: further rewards shape training, they are no accuracy.
        scores = [torch.nan if verdict.score is None else float(verdict.score) for verdict in rollouts.verdicts]
        values = {
            "accuracy": torch.tensor(scores, dtype=torch.float32, device=self.device),
            "length": rollouts.completions.lengths.float(),
            "truncated": (~rollouts.completions.finished).float(),
            "invalid": torch.tensor([float("no_answer" in v.flags) for v in rollouts.verdicts], device=self.device),
        }
        for key, value in values.items():
            self._of(batch.task.name)[key].update(item, sample, value)

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
            name = loader.task.name
            for key, metric in self._of(name).items():
                self._log(module, f"{prefix}/{name}/{key}", metric.compute())
            found = self._of(name)["accuracy"].sample_scores()
            scores[name] = {loader.rows[i].id: score for i, score in found.items()}
        self._log(module, "time/evaluation", torch.tensor(time.perf_counter() - self._started, device=self.device))
        # Without it Lightning's point stands one step too early.
        self._log(module, "step", torch.tensor(float(step), device=self.device))
        return scores

    def _of(self, task: str) -> dict[str, ItemAccuracy]:
        if task not in self._metrics:
            names = ("accuracy", "length", "truncated", "invalid")
            self._metrics[task] = {name: ItemAccuracy().to(self.device) for name in names}
            nothing = torch.empty(0, device=self.device)
            for metric in self._metrics[task].values():
                metric.update(nothing, nothing, nothing)  # a rank without prompts computes too
        return self._metrics[task]

    def _log(self, module: pl.LightningModule, name: str, value: Tensor) -> None:
        # All ranks hold the same value, of which the maximum is exact; of times it is the slowest rank's.
        distributed = module.trainer.world_size > 1
        module.log(name, value, sync_dist=distributed, reduce_fx="max", batch_size=1, add_dataloader_idx=False)
