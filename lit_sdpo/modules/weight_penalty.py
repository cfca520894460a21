"""What a loss can say about the weights, rather than about tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lit_sdpo.policies.masters import trained
from lit_sdpo.rollouts.types import LossBatch, Rollouts

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class WeightPenalty(nn.Module, ABC):
    """A penalty on the weights, added to any method's loss once per step; what it keeps is in every checkpoint."""

    @abstractmethod
    def attach(self, policy: nn.Module) -> None:
        """The policy is loaded, and once more when it has been divided among processes."""

    @abstractmethod
    def penalty(self, policy: nn.Module, values: Sequence[Tensor] | None = None) -> Tensor:
        """The penalty, a scalar with gradient.

        Args:
            policy: The model in training.
            values: Its trained parameters or their masters; ``None`` takes the parameters. The gradient at masters is
                given to the parameters.
        """

    def observe(self, rollouts: Rollouts, batch: LossBatch) -> None:
        """A window's completions are about to be learned from."""

    def end_stage(self, module: OnPolicyModule) -> None:
        """A stage has ended, and the weights are those that it hands on. All ranks call it at the same time."""

    def start_stage(self, policy: nn.Module, values: Sequence[Tensor] | None = None) -> None:
        """A later stage begins.

        Args:
            policy: The model in training.
            values: Its trained parameters or their masters; ``None`` takes the parameters.
        """


def differentiable(policy: nn.Module, values: Sequence[Tensor] | None) -> list[Tensor]:
    """The trained parameters or their masters, with the gradient given to the parameters."""
    parameters = trained(policy)
    return [
        parameter if value is parameter else parameter.float() + (value - parameter.float()).detach()
        for parameter, value in zip(parameters, values or parameters, strict=True)
    ]
