"""Copies of a policy's weights: a whole model, or a second adapter beside the trained one."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_sdpo.errors import UserError
from lit_sdpo.functional import ema_update_
from lit_sdpo.policies.load import load_policy
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, scorer


class FixedWeights(nn.Module):
    """Weights of a policy at some moment, to be asked what they predict."""

    @abstractmethod
    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """What a model with these weights predicts for completion tokens, in eval mode and without gradient."""


class WeightCopy(FixedWeights):
    """A copy that can follow the policy, averaged in float32."""

    @abstractmethod
    def mix(self, policy: PreTrainedModel, share: float) -> None:
        """Move by ``share`` towards the policy; 1 copies exactly, 0 changes nothing."""

    @abstractmethod
    def take(self, policy: PreTrainedModel, other: Self) -> None:
        """Take over another copy's weights."""

    @abstractmethod
    def mix_checkpoint(self, folder: str, share: float) -> None:
        """Move by ``share`` towards the model in a folder."""

    @abstractmethod
    def distance(self, policy: PreTrainedModel) -> Tensor:
        """``‖policy - copy‖ / ‖copy‖`` over the trained parameters, a scalar."""


def copy_of(policy: Any, name: str) -> WeightCopy:
    """The right kind of copy: of the whole model, or of its adapter.

    Args:
        policy: The model in training.
        name: Names an adapter's copy.
    """
    if hasattr(policy, "peft_config"):
        from lit_sdpo.policies.adapters import AdapterCopy

        return AdapterCopy(policy, name)
    return ModelCopy(policy)


def base_of(policy: PreTrainedModel) -> FixedWeights:
    """The policy before training; under an adapter that needs no memory."""
    if hasattr(policy, "peft_config"):
        from lit_sdpo.policies.adapters import BaseOfAdapter

        return BaseOfAdapter()
    return ModelCopy(policy)


class ModelCopy(WeightCopy):
    """A second model. Where the policy is not float32, a float32 shadow takes the averages and the model follows it."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.model: PreTrainedModel = copy.deepcopy(policy)
        self.model.requires_grad_(False).eval()
        self.shadow = nn.ParameterList()
        self._keep_shadow()

    def _keep_shadow(self) -> None:
        if not self.shadow and any(p.dtype != torch.float32 for p in self.model.parameters()):
            self.shadow.extend(nn.Parameter(p.detach().float(), requires_grad=False) for p in self.model.parameters())
        for average in self.shadow:
            average.data = average.data.float()

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Moves and casts the model; the shadow moves but stays float32, also under a true half-precision trainer."""
        super()._apply(*args, **kwargs)
        self._keep_shadow()
        return self

    @torch.no_grad()
    def mix(self, policy: PreTrainedModel, share: float) -> None:
        """Move towards the policy, parameter by parameter."""
        ema_update_(self._averages(), policy.parameters(), share)
        self._follow()

    def take(self, policy: PreTrainedModel, other: Self) -> None:
        """Take over another copy's weights."""
        ema_update_(self._averages(), other._averages(), 1.0)
        self._follow()

    def mix_checkpoint(self, folder: str, share: float) -> None:
        """Move towards the model in a folder, which needs the same architecture."""
        other = load_policy(folder)
        shapes = [p.shape for p in other.parameters()]
        if shapes != [p.shape for p in self.model.parameters()]:
            raise UserError(f"{folder!r} has another architecture than the policy", where="teacher.checkpoint")
        self.mix(other, share)

    @torch.no_grad()
    def distance(self, policy: PreTrainedModel) -> Tensor:
        """Relative distance over all parameters."""
        pairs = list(zip(policy.parameters(), self._averages(), strict=True))
        difference = torch.stack([torch.sum((s.float() - t) ** 2) for s, t in pairs]).sum()
        return (difference / torch.stack([torch.sum(t.float() ** 2) for _, t in pairs]).sum()).sqrt()

    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """The second model's predictions."""
        return scorer(self.model, sequences)

    def _averages(self) -> list[Tensor]:
        return list(self.shadow) or list(self.model.parameters())

    @torch.no_grad()
    def _follow(self) -> None:
        for weight, average in zip(self.model.parameters(), self.shadow, strict=False):
            weight.copy_(average)
