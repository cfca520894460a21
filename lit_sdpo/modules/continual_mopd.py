"""Learn a task while the specialists of earlier stages teach what they know, each on its own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.functional.divergence import logit_divergence
from lit_sdpo.modules.objective import Term, Tokens
from lit_sdpo.policies.copies import WeightCopy, copy_of
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class ContinualMOPD(Term):
    r"""Multi-teacher on-policy distillation from the specialists of finished stages, beside the current stage's method.

    .. math::
        \lambda \sum_{d} \frac{1}{|M_d|} \sum_{t \in M_d} \mathrm{KL}\big(\pi_{E_d}(\cdot \mid x, y_{<t}) \,\|\,
        \pi(\cdot \mid x, y_{<t})\big)

    over the whole vocabulary, with :math:`d` the earlier tasks that have a prompt in the step, :math:`M_d` the tokens
    of the policy's own completions to them (with ``aggregation`` over rows, their rows), and :math:`\pi_{E_d}` the
    policy as the last stage that trained on d handed it on. No verifier is asked. It is named for multi-teacher
    on-policy distillation (MOPD, arXiv:2606.30406, which was not read for it), whose teachers are given from the
    beginning and whose prompts are mixed; with one specialist it is :class:`PromptAnchor` after a single stage.

    For each stage that has a task which the next stage does not train, a copy of the policy is held from the start of
    the run (of an adapter, a second adapter of twice the rank), and is in checkpoints. Prompts are drawn, and read by
    the policy and by their own specialist alone, beside those of the stage; those of ``replay_tasks``, which have no
    specialist, have no part in it.

    Args:
        coefficient: Factor λ in the loss.

    Raises:
        UserError: When a stage ends whose specialist nobody has made room for.
    """

    name = "continual_mopd"
    replays = True

    def attach(self, module: OnPolicyModule) -> None:
        """Make room for the specialists."""
        made = {str(n): copy_of(module.policy, f"specialist_{n}", averages=False) for n in kept_stages(module.stages)}
        self.specialists = nn.ModuleDict(made)
        self._finished = len(made)

    def start_stage(self, module: OnPolicyModule) -> None:
        """What the stage before has handed on is its specialist."""
        ended = module.trainer.current_epoch - 1
        if ended not in kept_stages(module.stages):
            return
        stage = str(ended)
        if stage not in self.specialists:
            raise UserError(
                f"there is no room for the specialist of stage {ended}: it was built before the stream was known",
                where="model.continual_mopd_coefficient",
                fix="leave configure_model to the Trainer, or call module.expect(stages) before it",
            )
        self._specialist(stage).mix(module.policy, 1.0)

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """All tokens of earlier tasks' completions, where each task weighs 1 in all."""
        stages, device = last_stages(module.stages[: module.trainer.current_epoch]), batch.completion_ids.device
        names = [name for name in rollouts.tasks for _ in range(rollouts.num_generations)]
        numbers = {name: number for number, name in enumerate(stages)}
        domains = torch.tensor([numbers.get(name, -1) for name in names], device=device)
        domains = domains.masked_fill(rollouts.own, -1)
        rows = domains >= 0
        active = batch.completion_mask & rows[:, None]
        of_row = active.sum(1) if module.aggregation == "token_mean" else active.any(1).long()
        sizes = torch.zeros(len(stages), dtype=torch.long, device=device).index_add_(0, domains[rows], of_row[rows])
        sizes = module.trainer.strategy.reduce(sizes, reduce_op="sum") if stages else sizes
        # A token's weight is that of a mean over all tasks; the share of its own task in them makes it a sum of means.
        shares = torch.cat([sizes.sum() / sizes.clamp(min=1), sizes.new_zeros(1, dtype=torch.float32)])
        places = {int(stage): place for place, stage in enumerate(self.specialists)}
        self._finished = sum(stage < module.trainer.current_epoch for stage in places)
        kept = torch.tensor([*(places.get(stage, -1) for stage in stages.values()), -1], device=device)
        values = {"specialist": kept[domains]}
        return TermTokens(active=active, contributes=rows, scale=shares[domains], values=values)

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The divergence of each token from its own task's specialist."""
        of_row, target = part.values["specialist"], torch.zeros_like(tokens.logits, requires_grad=False)
        for place, stage in enumerate(list(self.specialists)[: self._finished]):
            rows = of_row == place
            found = tokens.logits_of(self._specialist(stage), rows)
            target = torch.where(tokens.of(rows)[:, None], found, target)
        return logit_divergence(tokens.logits, target, 0.0)

    def _specialist(self, stage: str) -> WeightCopy:
        found = self.specialists[stage]
        assert isinstance(found, WeightCopy)
        return found


def last_stages(stages: Sequence[Stage]) -> dict[str, int]:
    """The last stage of each task, by its name, in order of first appearance."""
    return {task.name: number for number, stage in enumerate(stages) for task in stage.task.parts}


def kept_stages(stages: Sequence[Stage]) -> list[int]:
    """Stages with a task that the next one does not train: what they have learned is an earlier task's then."""
    parts = [{task.name for task in stage.task.parts} for stage in stages]
    return [number for number in range(len(parts) - 1) if parts[number] - parts[number + 1]]
