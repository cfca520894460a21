"""Copies of a low-rank adapter, kept as further adapters of the same model: no second model in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lit_sdpo.errors import UserError
from lit_sdpo.policies.copies import FixedWeights, WeightCopy
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, head, scorer


class BaseOfAdapter(FixedWeights):
    """The model before training, which under an adapter is the model without it."""

    def scorer(self, policy: Any, sequences: Sequences) -> Scorer:
        """Predictions without the adapter."""
        with policy.disable_adapter():
            score = scorer(policy, sequences)
        return _within(policy.disable_adapter, score) if isinstance(head(policy), LoraLayer) else score


class AdapterCopy(WeightCopy):
    r"""A second adapter that holds, or averages, the update :math:`\Delta W = s B A` of the trained one.

    Averaging A and B apart is not averaging the update: it gives :math:`(1-r)^2`, :math:`r^2` and cross terms. Here the
    average of the products is formed exactly, as :math:`[(1-r) B_T, r s B_S] [A_T; A_S]`, and cut back to the copy's
    rank by its singular values. With twice the trained rank nothing is lost as long as the average lies in that many
    directions; what is lost is added up in ``truncation``, relative to the update's norm. A hard copy is exact.

    Args:
        policy: A model with one LoRA adapter.
        name: Name of the second adapter.
        rank_factor: Rank of the copy, as a multiple of the trained rank.
    """

    truncation: Tensor

    def __init__(self, policy: PeftModel, name: str, rank_factor: int = 2) -> None:
        super().__init__()
        self.name, self.trained = name, str(policy.active_adapter)
        config = policy.peft_config[self.trained]
        if not isinstance(config, LoraConfig):
            raise UserError(f"{type(config).__name__} adapters cannot be copied", where="model.lora", fix="use LoRA")
        rank = rank_factor * config.r
        own = LoraConfig(r=rank, lora_alpha=rank, target_modules=config.target_modules, task_type=config.task_type)
        policy.add_adapter(name, own)
        policy.set_adapter(self.trained)
        self._freeze(policy)
        self.register_buffer("truncation", torch.zeros(()))
        self.mix(policy, 1.0)

    @torch.no_grad()
    def mix(self, policy: Any, share: float) -> None:
        """Move the update towards the trained adapter's."""
        for layer in _layers(policy):
            b_own, a_own = layer.lora_B[self.name].weight, layer.lora_A[self.name].weight
            scale = layer.scaling[self.trained]
            b = layer.lora_B[self.trained].weight.float() * scale
            a = layer.lora_A[self.trained].weight.float()
            if share == 1.0:
                b_own.zero_()
                a_own.zero_()
                b_own[:, : b.shape[1]] = b
                a_own[: a.shape[0]] = a
            elif share > 0.0:
                both = torch.cat([(1 - share) * b_own.float(), share * b], 1), torch.cat([a_own.float(), a], 0)
                b_new, a_new, lost = _cut(*both, rank=b_own.shape[1])
                b_own.copy_(b_new)
                a_own.copy_(a_new)
                self.truncation += lost

    @torch.no_grad()
    def take(self, policy: Any, other: Self) -> None:
        """Take over another adapter's weights."""
        for layer in _layers(policy):
            layer.lora_B[self.name].weight.copy_(layer.lora_B[other.name].weight)
            layer.lora_A[self.name].weight.copy_(layer.lora_A[other.name].weight)

    def mix_checkpoint(self, folder: str, share: float) -> None:
        """Refused: a folder holds a whole model.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "an adapter's teacher cannot start from a model folder",
            where="teacher.checkpoint",
            fix="train all parameters",
        )

    @torch.no_grad()
    def distance(self, policy: Any) -> Tensor:
        """``‖ΔW_student - ΔW_copy‖ / ‖ΔW_copy‖`` over all adapted matrices; inf where the copy is still zero."""
        difference, norm = torch.zeros(()), torch.zeros(())
        for layer in _layers(policy):
            b_own, a_own = layer.lora_B[self.name].weight.float(), layer.lora_A[self.name].weight.float()
            b, a = layer.lora_B[self.trained].weight.float(), layer.lora_A[self.trained].weight.float()
            scaled = b * layer.scaling[self.trained]
            difference = difference + _squared_norm(torch.cat([scaled, -b_own], 1), torch.cat([a, a_own], 0))
            norm = norm + _squared_norm(b_own, a_own)
        return (difference.clamp(min=0) / norm).sqrt()

    def scorer(self, policy: Any, sequences: Sequences) -> Scorer:
        """Predictions with this adapter in the place of the trained one."""
        with self._active(policy):
            score = scorer(policy, sequences)
        return _within(lambda: self._active(policy), score) if isinstance(head(policy), LoraLayer) else score

    @contextmanager
    def _active(self, policy: Any) -> Iterator[None]:
        policy.set_adapter(self.name)
        try:
            yield
        finally:
            policy.set_adapter(self.trained)
            self._freeze(policy)

    def _freeze(self, policy: Any) -> None:
        for name, parameter in policy.named_parameters():
            if f".{self.name}." in name:
                parameter.requires_grad_(False)


def _within(context: Callable[[], AbstractContextManager[None]], score: Scorer) -> Scorer:
    """The head has an adapter too, so its logits need the context when they are made."""

    def inside(span: slice) -> Tensor:
        with context():
            return score(span)

    return inside


def _layers(policy: Any) -> list[Any]:
    return [module for module in policy.modules() if isinstance(module, LoraLayer)]


def _cut(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Best factors of ``b @ a`` at a rank, and the relative norm of what they lack."""
    q_left, r_left = torch.linalg.qr(b)
    q_right, r_right = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T)
    root = s[:rank].sqrt()
    lost = s[rank:].norm() / s.norm().clamp(min=1e-30)
    width = len(root)
    left, right = b.new_zeros(b.shape[0], rank), a.new_zeros(rank, a.shape[1])
    left[:, :width] = q_left @ (u[:, :width] * root)
    right[:width] = (root[:, None] * v[:width]) @ q_right.T
    return left, right, lost


def _squared_norm(b: Tensor, a: Tensor) -> Tensor:
    """``‖b @ a‖²`` from the small Gram matrices."""
    return ((b.T @ b) * (a @ a.T)).sum()
