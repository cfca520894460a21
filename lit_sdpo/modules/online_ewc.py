"""Elastic weight consolidation: hold the weights on which what was learned depends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from lit_sdpo.errors import UserError
from lit_sdpo.functional import decayed_fisher, ewc_penalty, fisher_diagonal, token_logprobs_from_logits
from lit_sdpo.modules.weight_penalty import WeightPenalty, differentiable
from lit_sdpo.policies.masters import is_rounded, trained
from lit_sdpo.policies.scoring import completion_hidden, weighted_loss
from lit_sdpo.policies.sharding import is_sharded
from lit_sdpo.ranges import check_number, check_share
from lit_sdpo.rollouts.types import LossBatch, Rollouts

if TYPE_CHECKING:
    from lit_sdpo.modules.base import OnPolicyModule


class OnlineEWC(WeightPenalty):
    r"""One quadratic penalty for all past stages (online EWC, arXiv:1805.06370); usable with every method.

    .. math::
        \frac{\lambda}{2} \sum_i F^*_i (\theta_i - \tilde\theta_i)^2,
        \qquad F^* \leftarrow \gamma F^* + F, \quad F_i = \frac{1}{N} \sum_{n=1}^N (\partial_i \log \pi(y_n \mid x_n))^2

    with :math:`\tilde\theta` the weights when the current stage began and :math:`F` the diagonal of the Fisher
    information at the end of a stage, of the N completions of its last window: the policy's own, drawn one step before,
    or for SFT the reference answers. Completions to earlier tasks' prompts do not count. Nothing is held in the first
    stage. Where weights have float32 masters, :math:`\theta` are these.

    It holds two float32 tensors for each trained weight. A stage's end takes a forward and a backward pass for each of
    the N completions, one by one; a step takes no pass more. Weights divided among processes are refused.

    Args:
        strength: Factor λ.
        gamma: What is left of the importance for earlier stages, γ; 1 forgets none.
    """

    def __init__(self, strength: float = 1.0, gamma: float = 0.9) -> None:
        super().__init__()
        self.strength = check_number("strength", strength, at_least=0)
        self.gamma = check_share("gamma", gamma)
        self._window: LossBatch | None = None

    def attach(self, policy: nn.Module) -> None:
        """Nothing matters yet.

        Raises:
            UserError: The weights are divided among processes.
        """
        if is_sharded(policy):
            raise UserError(
                "the Fisher information takes a gradient of each completion, and the weights are divided",
                where="model.weight_anchor",
                fix="use a strategy that keeps whole parameters (auto, ddp), or WeightAnchor",
            )
        for number, parameter in enumerate(trained(policy)):
            exact = torch.float32 if is_rounded(parameter) else parameter.dtype
            self.register_buffer(f"anchor_{number}", parameter.detach().to(exact, copy=True))
            self.register_buffer(f"fisher_{number}", torch.zeros_like(parameter, dtype=exact))

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Moves what is kept; it stays float32, also under a true half-precision trainer."""
        before = dict(self.named_buffers())
        super()._apply(*args, **kwargs)
        for name, exact in before.items():
            if is_rounded(moved := getattr(self, name)):
                setattr(self, name, exact.to(moved.device))
        return self

    def _kept(self, kind: str, policy: nn.Module) -> list[Tensor]:
        return [getattr(self, f"{kind}_{number}") for number in range(len(trained(policy)))]

    def observe(self, rollouts: Rollouts, batch: LossBatch) -> None:
        """Keep the latest window."""
        self._window = batch.select(rollouts.own.nonzero()[:, 0].tolist())

    def end_stage(self, module: OnPolicyModule) -> None:
        """Add the importance of each weight for the stage."""
        window, self._window = self._window, None
        assert window is not None  # a stage has a window
        with module.trainer.precision_plugin.forward_context():
            own = fisher_diagonal(_gradients(module.policy, window))
        reduce, device = module.trainer.strategy.reduce, module.device
        count = torch.tensor(float(len(window)), device=device)
        total = reduce(count.clone(), reduce_op="sum")
        means = [reduce(fisher * count, reduce_op="sum") / total for fisher in own]
        kept = self._kept("fisher", module.policy)
        for fisher, new in zip(kept, decayed_fisher(kept, means, self.gamma), strict=True):
            fisher.copy_(new)

    @torch.no_grad()
    def start_stage(self, policy: nn.Module, values: Sequence[Tensor] | None = None) -> None:
        """What is held from now on are the weights of now."""
        for anchor, value in zip(
            self._kept("anchor", policy), trained(policy) if values is None else values, strict=True
        ):
            anchor.copy_(value)

    def penalty(self, policy: nn.Module, values: Sequence[Tensor] | None = None) -> Tensor:
        """The penalty; 0 in the first stage."""
        kept = self._kept("anchor", policy), self._kept("fisher", policy)
        return ewc_penalty(differentiable(policy, values), *kept, self.strength)


def _gradients(policy: Any, window: LossBatch) -> Iterator[Sequence[Tensor]]:
    """The gradient of each completion's log-probability at the sampling temperature, one row at a time."""
    parameters = trained(policy)
    for number in range(len(window)):
        row = window.select([number])
        ids = row.completion_ids[row.completion_mask]

        def logprobs(logits: Tensor, span: slice, ids: Tensor = ids) -> Tensor:
            return token_logprobs_from_logits(logits, ids[span], window.temperature or 1.0)

        with torch.enable_grad():
            total = weighted_loss(policy, completion_hidden(policy, row.sequences), logprobs)
            yield torch.autograd.grad(total, parameters, materialize_grads=True)
