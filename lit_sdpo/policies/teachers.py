"""Teachers: the weights that give SDPO its targets, and when they change.

A teacher takes its weights from the student in memory, never from a path, so that in a later stage it starts from what
the student has become. It is part of the module, so its weights and its clock are in every checkpoint.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

StagePolicy = Literal["keep", "reset_to_student"]


class Teacher(nn.Module):
    """Base: a copy of the student that changes only through :meth:`update` and :meth:`start_stage`.

    Args:
        at_stage: What happens when a stage begins: ``keep`` goes on with the same weights, ``reset_to_student`` copies
            the student. In the first stage the student is the base model, so both begin alike.
    """

    def __init__(self, at_stage: StagePolicy) -> None:
        super().__init__()
        self.at_stage = at_stage
        self.model: PreTrainedModel
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def attach(self, policy: PreTrainedModel) -> None:
        """Copy the student; called once, when the module has loaded its policy."""
        self.model = copy.deepcopy(policy)
        self.model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Teacher:
        """A teacher is always in eval mode."""
        return super().train(False)

    def start_stage(self, policy: PreTrainedModel) -> None:
        """A stage begins."""
        if self.at_stage == "reset_to_student":
            self._mix(policy, 1.0)

    def update(self, policy: PreTrainedModel) -> None:
        """The student has taken an optimizer step."""
        self.steps += 1

    @torch.no_grad()
    def distance(self, policy: PreTrainedModel) -> Tensor:
        """Relative distance ``‖student - teacher‖ / ‖teacher‖`` over all parameters, a scalar."""
        pairs = list(zip(policy.parameters(), self.model.parameters(), strict=True))
        difference = torch.stack([torch.sum((s.float() - t.float()) ** 2) for s, t in pairs]).sum()
        norm = torch.stack([torch.sum(t.float() ** 2) for _, t in pairs]).sum()
        return (difference / norm).sqrt()

    @torch.no_grad()
    def _mix(self, policy: PreTrainedModel, share: float) -> None:
        """Move by the given share towards the student; 1 copies exactly."""
        for own, other in zip(self.model.parameters(), policy.parameters(), strict=True):
            own.copy_(other) if share == 1.0 else own.lerp_(other.to(own.dtype), share)


class FrozenTeacher(Teacher):
    """SDPO_0 of the paper (arXiv:2607.01763): the teacher does not follow the student within a stage.

    Args:
        at_stage: ``reset_to_student`` freezes anew at each stage, as the paper's runs did, one per stage; ``keep`` stays
            with the base model throughout.
    """

    def __init__(self, at_stage: StagePolicy = "reset_to_student") -> None:
        super().__init__(at_stage)


class EMATeacher(Teacher):
    """Exponential moving average of the student: ``teacher ← (1 - update_rate) · teacher + update_rate · student``.

    Updated after every optimizer step, with float32 weights whatever the student's dtype: at small rates the change of a
    step is lost in bfloat16.

    Args:
        update_rate: Share of the student mixed in per step (the paper: 0.005 to 0.05; 0.05 is the one that collapses).
        at_stage: Whether the average is carried over to the next stage (``keep``) or starts again from the student.
    """

    def __init__(self, update_rate: float = 0.05, at_stage: StagePolicy = "keep") -> None:
        super().__init__(at_stage)
        if not 0 <= update_rate <= 1:
            raise ValueError(f"update_rate is a share between 0 and 1, got {update_rate}")
        self.update_rate = update_rate

    def attach(self, policy: PreTrainedModel) -> None:
        """Copy the student in float32."""
        super().attach(policy)
        self.model.float()

    def update(self, policy: PreTrainedModel) -> None:
        """Move towards the student."""
        super().update(policy)
        self._mix(policy, self.update_rate)
