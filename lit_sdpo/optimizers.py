"""Optimizers and schedules that torch does not ship in the form a configuration needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_sdpo.policies.sharding import part_of, whole
from lit_sdpo.ranges import check_integer, check_number, check_share


class PaperAdamW(AdamW):
    """AdamW as in arXiv:2607.01763: weight decay 0.01, and learning rate 1e-6 (GRPO) unless told otherwise."""

    def __init__(self, params: Any, lr: float = 1e-6, weight_decay: float = 0.01) -> None:
        check_number("lr", lr, at_least=0)
        check_number("weight_decay", weight_decay, at_least=0)
        super().__init__(params, lr=lr, weight_decay=weight_decay)


class SDPOAdamW(PaperAdamW):
    """The same at the paper's learning rate for SDPO, 1e-5."""

    def __init__(self, params: Any, lr: float = 1e-5, weight_decay: float = 0.01) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)


class MuonAdamW(Optimizer):
    """Muon for weight matrices, AdamW for embeddings, the head and vectors, as one optimizer.

    Muon moves a matrix along its orthogonalised momentum (K. Jordan et al., "Muon", 2024), scaled by
    ``0.2 sqrt(max(rows, columns))`` so that the update has the size of AdamW's and both take the same learning rate
    (arXiv:2502.16982). torch's own Muon iterates in bfloat16, which many CPUs run several times slower than float32.

    Args:
        parameters: ``(name, parameter)`` pairs; names with ``embed`` or ``head`` go to AdamW.
        lr: Learning rate of both.
        weight_decay: Of both, decoupled.
        momentum: Muon's.
        betas: AdamW's.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float = 4e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        check_number("lr", lr, at_least=0)
        check_number("weight_decay", weight_decay, at_least=0)
        check_number("momentum", momentum, at_least=0, below=1)
        for beta in betas:
            check_number("betas", beta, at_least=0, below=1)
        matrices: list[tuple[str, nn.Parameter]] = []
        others: list[tuple[str, nn.Parameter]] = []
        for name, parameter in parameters:
            apart = parameter.ndim != 2 or "embed" in name or "head" in name
            (others if apart else matrices).append((name, parameter))
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        groups = [group for group in groups if group["params"]]  # torch takes an empty group for one without names
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adam)(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Any]) -> None:
        by_shape: dict[torch.Size, list[Any]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, alike in by_shape.items():
            for parameter in alike:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
            nesterov = [whole(p.grad.lerp(self.state[p]["momentum"], group["momentum"])) for p in alike]
            scale = group["lr"] * 0.2 * max(shape) ** 0.5
            updates = [part_of(u, p) for u, p in zip(orthogonalise(torch.stack(nesterov)), alike, strict=True)]
            torch._foreach_add_(alike, updates, alpha=-scale)

    def _adam(self, group: dict[str, Any], parameters: list[Any]) -> None:
        first, second = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
            state["step"] += 1
            state["mean"].lerp_(parameter.grad, 1 - first)
            state["square"].lerp_(parameter.grad.square(), 1 - second)
            deviation = (state["square"] / (1 - second ** state["step"])).sqrt().add_(1e-8)
            parameter.addcdiv_(state["mean"], deviation, value=-group["lr"] / (1 - first ** state["step"]))


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Bring all singular values near 1 by a quintic Newton-Schulz iteration in float32.

    Args:
        matrices: [B, m, n].
        iterations: Five bring them into about [0.7, 1.2].

    Example:
        >>> import torch
        >>> random = torch.Generator().manual_seed(0)
        >>> values = torch.linalg.svdvals(orthogonalise(torch.randn(1, 8, 16, generator=random)))
        >>> bool((values > 0.6).all() and (values < 1.3).all())
        True
    """
    x = matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class WarmupConstant(LambdaLR):
    """Linear warm-up, then constant: the paper's schedule (10 steps of warm-up).

    Args:
        optimizer: The optimizer.
        warmup_steps: Optimizer steps until the full learning rate.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 10) -> None:
        check_integer("warmup_steps", warmup_steps)
        super().__init__(optimizer, lambda step: min(1.0, (step + 1) / max(warmup_steps, 1)))


class WarmupLinearDecay(LambdaLR):
    """Linear warm-up, constant, then linear decay to zero over the last part.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of the run.
        warmup_steps: Optimizer steps until the full learning rate.
        decay_share: Share of ``total_steps`` at the end over which the rate falls to zero.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 10, decay_share: float = 0.6
    ) -> None:
        check_integer("total_steps", total_steps, at_least=1)
        check_integer("warmup_steps", warmup_steps)
        check_share("decay_share", decay_share)

        def factor(step: int) -> float:
            left = (total_steps - step) / max(decay_share * total_steps, 1)
            return max(0.0, min(1.0, (step + 1) / max(warmup_steps, 1), left))

        super().__init__(optimizer, factor)
