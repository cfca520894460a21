"""A penalty on moving the parameters that mattered for past tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_sdpo.policies.sharding import part_of, whole
from lit_sdpo.ranges import check_number


class WeightAnchor(nn.Module):
    r"""Masked L1 distance to the weights at the last stage's end (CPO, arXiv:2607.04364); usable with every method.

    .. math::
        \frac{\lambda}{\|m\|_0} \| m \odot (\theta - \tilde\theta) \|_1

    with :math:`\tilde\theta` the weights when the current stage began and :math:`m` the union, over past stages, of the
    share of parameters that changed most in that stage. Nothing is held in the first stage.

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
        for number, parameter in enumerate(_trained(policy)):
            self.register_buffer(f"anchor_{number}", parameter.detach().clone())
            self.register_buffer(f"mask_{number}", torch.zeros_like(parameter, dtype=torch.bool))

    @torch.no_grad()
    def start_stage(self, policy: nn.Module) -> None:
        """A stage has ended and another begins: what moved most is held from now on."""
        self.stages += 1
        for number, parameter in enumerate(_trained(policy)):
            anchor, mask = getattr(self, f"anchor_{number}"), getattr(self, f"mask_{number}")
            change = whole((parameter - anchor).abs()).flatten()
            held = whole(mask).flatten()
            held[change.topk(max(1, round(self.share * change.numel()))).indices] = True
            mask.copy_(part_of(held.view(mask.shape), mask))
            anchor.copy_(parameter)

    def penalty(self, policy: nn.Module) -> Tensor:
        """The penalty, a scalar with gradient; 0 in the first stage."""
        total, held = torch.zeros((), device=self.stages.device), torch.zeros((), device=self.stages.device)
        for number, parameter in enumerate(_trained(policy)):
            anchor, mask = getattr(self, f"anchor_{number}"), getattr(self, f"mask_{number}")
            total = total + whole(torch.where(mask, (parameter - anchor).abs(), 0.0).sum(dtype=torch.float32))
            held = held + whole(mask.sum())
        return self.strength * total / held.clamp(min=1)


def _trained(policy: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]
