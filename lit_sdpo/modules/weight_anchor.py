"""A penalty on moving the parameters that mattered for past tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lit_sdpo.modules.weight_penalty import WeightPenalty, differentiable
from lit_sdpo.policies.masters import is_rounded, trained
from lit_sdpo.policies.sharding import part_of, whole
from lit_sdpo.ranges import check_number


class WeightAnchor(WeightPenalty):
    r"""Masked L1 distance to the weights at the last stage's end (CPO, arXiv:2607.04364); usable with every method.

    .. math::
        \frac{\lambda}{\|m\|_0} \| m \odot (\theta - \tilde\theta) \|_1

    with :math:`\tilde\theta` the weights when the current stage began and :math:`m` the union, over past stages, of the
    share of parameters that changed most in that stage. Nothing is held in the first stage. Where weights have float32
    masters, :math:`\theta` are these: rounded weights would hardly have changed.

    Args:
        strength: Factor λ (the source: 100).
        share: Share of each matrix that is held per past stage (the source: 0.1).
    """

    stages: Tensor

    def __init__(self, strength: float = 100.0, share: float = 0.1) -> None:
        super().__init__()
        self.strength = check_number("strength", strength, at_least=0)
        self.share = check_number("share", share, above=0, at_most=1)
        self.register_buffer("stages", torch.zeros((), dtype=torch.long))

    def attach(self, policy: nn.Module) -> None:
        """Keep the first weights."""
        for number, parameter in enumerate(trained(policy)):
            exact = torch.float32 if is_rounded(parameter) else parameter.dtype
            self.register_buffer(f"anchor_{number}", parameter.detach().to(exact, copy=True))
            self.register_buffer(f"mask_{number}", torch.zeros_like(parameter, dtype=torch.bool))

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the anchors; a half-precision trainer rounds those of the first weights, as it does the weights."""
        before = {name: buffer for name, buffer in self.named_buffers() if name.startswith("anchor")}
        super()._apply(*args, **kwargs)
        first = self.stages.is_meta or not int(self.stages)
        for name, exact in before.items():
            moved: Tensor = getattr(self, name)
            if is_rounded(moved):
                setattr(self, name, moved.float() if first else exact.to(moved.device))
        return self

    @torch.no_grad()
    def start_stage(self, policy: nn.Module, values: Sequence[Tensor] | None = None) -> None:
        """A stage has ended and another begins: what moved most is held from now on."""
        self.stages += 1
        for number, parameter in enumerate(trained(policy) if values is None else values):
            anchor, mask = getattr(self, f"anchor_{number}"), getattr(self, f"mask_{number}")
            change = whole((parameter - anchor).abs()).flatten()
            held = whole(mask).flatten()
            held[change.topk(max(1, round(self.share * change.numel()))).indices] = True
            mask.copy_(part_of(held.view(mask.shape), mask))
            anchor.copy_(parameter)

    def penalty(self, policy: nn.Module, values: Sequence[Tensor] | None = None) -> Tensor:
        """The penalty; 0 in the first stage."""
        total, held = torch.zeros((), device=self.stages.device), torch.zeros((), device=self.stages.device)
        for number, now in enumerate(differentiable(policy, values)):
            anchor, mask = getattr(self, f"anchor_{number}"), getattr(self, f"mask_{number}")
            total = total + whole(torch.where(mask, (now - anchor).abs(), 0.0).sum(dtype=torch.float32))
            held = held + whole(mask.sum())
        return self.strength * total / held.clamp(min=1)
