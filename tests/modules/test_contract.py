"""A method on a base of its own, written from the contract alone, trains as the package's own does."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.rollouts.types import LossBatch, TermTokens
from tests.training import assert_close_gradients, fit, step_gradient, toy_data, weights


class Reinforce(RolloutModule):
    """The gradient of the rewards above their group's mean, row by row through the plain model."""

    def __init__(self, folder, lr):
        super().__init__()
        self.policy = AutoModelForCausalLM.from_pretrained(folder).train()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.lr = lr

    def prepare_rollouts(self, rollouts):
        batch = LossBatch.of(rollouts)
        groups = rollouts.rewards.view(-1, rollouts.num_generations)
        advantages = (groups - groups.mean(1, keepdim=True)).flatten()
        part = TermTokens(batch.completion_mask, advantages != 0, values={"advantages": advantages})
        batch.parts["reinforce"] = part
        return batch

    def training_step(self, batch, batch_idx):
        rows, part, loss = batch.loss, batch.loss.parts["reinforce"], torch.zeros(())
        for n, prompt in enumerate(rows.prompt_ids):
            ids = rows.completion_ids[n, rows.completion_mask[n]]
            logits = self.policy(torch.cat([torch.tensor(prompt), ids])[None]).logits[0, len(prompt) - 1 : -1]
            chosen = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
            loss = loss - part.values["advantages"][n] * (part.weights[n, : len(ids)] * chosen).sum()
        return loss * batch.slots * self.trainer.world_size

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.policy.parameters(), lr=self.lr)


@pytest.mark.parametrize("slots", [1, 3])
def test_its_gradient_is_that_of_grpo(tmp_path, tiny, slots):
    own = Reinforce(tiny, 0.5)
    before = weights(own)
    fit(tmp_path / "own", own, toy_data(), accumulate_grad_batches=slots)
    moved = {name: (before[name] - weight).double() / 0.5 for name, weight in weights(own).items()}
    expected, _ = step_gradient(tmp_path / "grpo", "grpo", tiny)
    assert_close_gradients(moved, expected)
    assert not own.learns_from_replay
    assert own.learns_from == "policy"
