"""Evaluates the tasks that are scored by likelihood, beside those whose completions are judged."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from transformers import PreTrainedTokenizerBase

from lit_sdpo.callbacks.rollout.log import log_maximum
from lit_sdpo.callbacks.rollout.prompt_budget import NO_LIMIT
from lit_sdpo.data.base import stream_of
from lit_sdpo.data.task import Split
from lit_sdpo.likelihood.encoding import Encoder, Scored
from lit_sdpo.likelihood.loader import LikelihoodBatch
from lit_sdpo.likelihood.scoring import token_logprobs
from lit_sdpo.metrics.items import ItemAccuracy
from lit_sdpo.policies.held import policy_in, positions, template_options_in, tokenizer_in
from lit_sdpo.policies.sharding import gathered

#: What a model reads at once that does not say it; lm-evaluation-harness supposes the same.
LENGTH = 2048


class LikelihoodEvaluation(Callback):
    """Scores the data module's ``likelihood`` tasks in every evaluation, under the Trainer's precision.

    Logged are ``val/<task>/...`` as :meth:`~lit_sdpo.likelihood.tasks.LikelihoodTask.numbers` names them, and
    ``time/likelihood``. All rows are encoded before the first step; each process scores its share. It asks a
    LightningModule for ``policy``, ``tokenizer`` and optionally ``chat_template_options``, and does nothing where no
    such task is declared.
    """

    def __init__(self) -> None:
        #: Scores of each row in the last evaluation, by task and row id.
        self.item_scores: dict[str, dict[str, list[float]]] = {}
        #: What is asked about each row, by task; known once the model is.
        self.requests: dict[str, list[list[Scored]]] = {}
        self._values: dict[str, ItemAccuracy] = {}
        self._held = ExitStack()
        self._seconds = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget what an earlier run of this callback has encoded."""
        self.requests = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut all rows into tokens, now that the model is known."""
        split: Split = "test" if trainer.testing else "validation"
        for task in stream_of(trainer).likelihood:
            if task.name not in self.requests:
                tokenizer = tokenizer_in(pl_module)
                encoder = Encoder(tokenizer, template_options_in(pl_module))
                length = readable(policy_in(pl_module), tokenizer)
                self.requests[task.name] = [task.requests(row, encoder, length) for row in task.rows(split)]

    on_validation_start = on_fit_start
    on_test_start = on_fit_start

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new evaluation; its batches may be more on one process than on another."""
        self._values, self._seconds = {}, 0.0
        for task in stream_of(trainer).likelihood:
            metric = self._values[task.name] = ItemAccuracy().to(pl_module.device)
            nothing = torch.empty(0, device=pl_module.device)
            metric.update(nothing, nothing, nothing)  # a rank without rows computes too
        if self._values:
            self._held.enter_context(gathered(policy_in(pl_module)))

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score some rows."""
        if not isinstance(batch, LikelihoodBatch):
            return
        started, name, policy = time.perf_counter(), batch.task.name, policy_in(pl_module)
        asked = [self.requests[name][position] for position in batch.positions]
        with trainer.precision_plugin.forward_context():
            answers = token_logprobs(policy, [request for row in asked for request in row], batch.task.batch_tokens)
        for position, row in zip(batch.positions, asked, strict=True):
            own, answers = answers[: len(row)], answers[len(row) :]
            values = torch.tensor(batch.task.values(own), device=pl_module.device)
            self._values[name].update(torch.full_like(values, position), torch.arange(len(values)).to(values), values)
        self._seconds += time.perf_counter() - started

    on_test_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was measured; all ranks call it together."""
        self._held.close()
        self.item_scores = {}
        split: Split = "test" if trainer.testing else "validation"
        for task in stream_of(trainer).likelihood:
            rows = task.rows(split)
            found = self._values[task.name].sample_scores()
            values = [found[position] for position in range(len(rows))]
            for name, number in task.numbers(rows, values).items():
                tag = f"{'test' if trainer.testing else 'val'}/{task.name}/{name}"
                log_maximum(pl_module, tag, torch.tensor(number, device=pl_module.device))
            scores = task.item_scores(rows, values)
            self.item_scores[task.name] = {row.id: [score] for row, score in zip(rows, scores, strict=True)}
        if self._values:
            log_maximum(pl_module, "time/likelihood", torch.tensor(self._seconds, device=pl_module.device))

    on_test_epoch_end = on_validation_epoch_end

    def on_exception(self, *arguments: Any, **options: Any) -> None:
        """Leave the weights as they were."""
        self._held.close()


def readable(policy: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that a model reads at once: what its configuration says, else its tokenizer, else 2,048."""
    if (own := positions(policy)) is not None:
        return own
    return tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else LENGTH
