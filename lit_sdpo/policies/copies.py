"""Copies of a policy's weights: a whole model, or a second adapter beside the trained one."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from lit_sdpo.functional import ema_update_
from lit_sdpo.policies.fitting import check_same
from lit_sdpo.policies.held import adapted
from lit_sdpo.policies.load import load_policy
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, scorer
from lit_sdpo.policies.sharding import add_up, part_of, release, shard


class FixedWeights(nn.Module):
    """Weights of a policy at some moment, to be asked what they predict."""

    @abstractmethod
    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """What a model with these weights predicts for completion tokens, in eval mode and without gradient."""


class SecondModel(FixedWeights):
    """A whole model beside the policy, which is never trained.

    Args:
        model: Not yet sharded.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model: PreTrainedModel = model
        self.model.requires_grad_(False).eval()

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide the weights among processes, as those of the policy are."""
        shard(self.model, mesh)

    def release(self) -> None:
        """Give up what the last scoring has gathered."""
        release(self.model)

    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """Its own predictions."""
        return scorer(self.model, sequences)


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


def copy_of(policy: Any, name: str, averages: bool = True) -> WeightCopy:
    """The right kind of copy: of the whole model, or of its adapter.

    Args:
        policy: The model in training.
        name: Names an adapter's copy.
        averages: See :class:`ModelCopy`.
    """
    if adapted(policy):
        from lit_sdpo.policies.adapters import AdapterCopy

        return AdapterCopy(policy, name)
    return ModelCopy(policy, averages)


def base_of(policy: PreTrainedModel) -> FixedWeights:
    """The policy before training; under an adapter that needs no memory."""
    if adapted(policy):
        from lit_sdpo.policies.adapters import BaseOfAdapter

        return BaseOfAdapter()
    return ModelCopy(policy, averages=False)


class ModelCopy(SecondModel, WeightCopy):
    """A second model that began as a copy of the policy.

    Args:
        policy: The model to copy, not yet sharded.
        averages: Where the policy is not float32, a float32 shadow takes the averages and the model follows it. A copy
            that takes whole weights only needs none; a share that is mixed into it all the same is rounded each time.
    """

    def __init__(self, policy: PreTrainedModel, averages: bool = True) -> None:
        super().__init__(copy.deepcopy(policy))
        self.averages = averages
        self.shadow = nn.ParameterList()
        self._keep_shadow()

    def _keep_shadow(self) -> None:
        if not self.averages:
            return
        if not self.shadow and any(p.dtype != torch.float32 for p in self.model.parameters()):
            self._begin_shadow()
        for average in self.shadow:
            if average.dtype != torch.float32:
                average.data = average.data.float()

    def _begin_shadow(self) -> None:
        floats = (p.detach().to(torch.float32, copy=True) for p in self.model.parameters())
        self.shadow.extend(nn.Parameter(average, requires_grad=False) for average in floats)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Moves and casts the model; the shadow moves but stays float32, also under a true half-precision trainer."""
        before = [average.data for average in self.shadow]
        super()._apply(*args, **kwargs)
        for average, exact in zip(self.shadow, before, strict=True):
            if average.dtype != exact.dtype:  # cast, it would be rounded for good
                average.data = exact.to(average.device)
        self._keep_shadow()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint may have the shadow of a precision that this model, still in float32, is going to get."""
        if self.averages and not self.shadow and f"{prefix}shadow.0" in state_dict:
            self._begin_shadow()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide the weights among processes, as those of the policy are."""
        super().shard(mesh)
        pairs = zip(list(self.shadow), self.model.parameters(), strict=False)
        parts = [nn.Parameter(part_of(s.detach(), p).clone(), requires_grad=False) for s, p in pairs]
        self.shadow = nn.ParameterList(parts)

    @torch.no_grad()
    def mix(self, policy: PreTrainedModel, share: float) -> None:
        """Move towards the policy, parameter by parameter."""
        release(policy)
        if self.averages or share == 1.0:
            ema_update_(self._averages(), policy.parameters(), share)
            self._follow()
            return
        for weight, other in zip(self._averages(), policy.parameters(), strict=True):
            weight.copy_(weight.float().lerp_(other.float(), share))

    def take(self, policy: PreTrainedModel, other: Self) -> None:
        """Take over another copy's weights."""
        ema_update_(self._averages(), other._averages(), 1.0)
        self._follow()

    def mix_checkpoint(self, folder: str, share: float) -> None:
        """Move towards the model in a folder, which needs the same architecture."""
        other = load_policy(folder, where="teacher.checkpoint")
        fix = "give a model of the policy's architecture"
        check_same(dict(other.named_parameters()), dict(self.model.named_parameters()), "teacher.checkpoint", fix)
        self.mix(other, share)

    @torch.no_grad()
    def distance(self, policy: PreTrainedModel) -> Tensor:
        """Relative distance over all parameters."""
        release(policy)
        pairs = list(zip(policy.parameters(), self._averages(), strict=True))
        difference = add_up([torch.sum((s.float() - t) ** 2) for s, t in pairs])
        return (difference / add_up([torch.sum(t.float() ** 2) for _, t in pairs])).sqrt()

    def _averages(self) -> list[Tensor]:
        self.release()
        return list(self.shadow) or list(self.model.parameters())

    @torch.no_grad()
    def _follow(self) -> None:
        for weight, average in zip(self.model.parameters(), self.shadow, strict=False):
            weight.copy_(average)
