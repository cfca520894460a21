"""Copies of a low-rank adapter, and adapters from folders: further adapters of one model, no second one in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from torch import Tensor
from torch.nn.functional import pad

from lit_sdpo.errors import UserError, explained
from lit_sdpo.policies.copies import FixedWeights, SecondModel, WeightCopy
from lit_sdpo.policies.fitting import check_finite, listed
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, head, scorer
from lit_sdpo.policies.sharding import part_of, release, whole


class BaseOfAdapter(FixedWeights):
    """The model before training, which under an adapter is the model without it."""

    def scorer(self, policy: Any, sequences: Sequences) -> Scorer:
        """Predictions without the adapter."""
        return _scorer(policy, sequences, lambda: _with(policy, _disable_adapters=True))


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
        release(policy)
        if share == 0.0:
            return
        for layer in _layers(policy, self.trained):
            b, a = _factors(layer, self.trained)
            b = b * layer.scaling[self.trained]
            b_own, a_own = _factors(layer, self.name)
            if share == 1.0:
                b_new, a_new = pad(b, (0, b_own.shape[1] - b.shape[1])), pad(a, (0, 0, 0, a_own.shape[0] - a.shape[0]))
            else:
                both = torch.cat([(1 - share) * b_own, share * b], 1), torch.cat([a_own, a], 0)
                b_new, a_new, lost = _cut(*both, rank=b_own.shape[1])
                self.truncation += lost
            self._put(layer, b_new, a_new)

    @torch.no_grad()
    def take(self, policy: Any, other: Self) -> None:
        """Take over another adapter's weights."""
        release(policy)
        for layer in _layers(policy, self.trained):
            self._put(layer, *_factors(layer, other.name))

    def _put(self, layer: Any, b: Tensor, a: Tensor) -> None:
        for weight, value in ((layer.lora_B[self.name].weight, b), (layer.lora_A[self.name].weight, a)):
            weight.copy_(part_of(value, weight))

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
        release(policy)
        difference, norm = torch.zeros(()), torch.zeros(())
        for layer in _layers(policy, self.trained):
            b_own, a_own = _factors(layer, self.name)
            b, a = _factors(layer, self.trained)
            scaled = b * layer.scaling[self.trained]
            difference = difference + _squared_norm(torch.cat([scaled, -b_own], 1), torch.cat([a, a_own], 0))
            norm = norm + _squared_norm(b_own, a_own)
        return (difference.clamp(min=0) / norm).sqrt()

    def scorer(self, policy: Any, sequences: Sequences) -> Scorer:
        """Predictions with this adapter in the place of the trained one."""
        return _scorer(policy, sequences, lambda: _with(policy, _active_adapter=[self.name]))

    def _freeze(self, policy: Any) -> None:
        for name, parameter in policy.named_parameters():
            if f".{self.name}." in name:
                parameter.requires_grad_(False)


class NamedAdapter(FixedWeights):
    """An adapter among those of a model.

    Args:
        name: Its name there.
        model: The model; ``None`` is the policy itself.
    """

    def __init__(self, name: str, model: SecondModel | None = None) -> None:
        super().__init__()
        self.name, self.holder = name, model

    def scorer(self, policy: Any, sequences: Sequences) -> Scorer:
        """Predictions with this adapter and no other."""
        model = policy if self.holder is None else self.holder.model
        return _scorer(model, sequences, lambda: _with(model, _active_adapter=[self.name]))


def is_adapter(folder: str) -> bool:
    """Whether a folder holds an adapter."""
    return (Path(folder).expanduser() / "adapter_config.json").is_file()


def read_adapter(model: Any, folder: str, where: str) -> tuple[Any, str]:
    """Add the adapter of a folder to a model, frozen, without a change of which one is active.

    Args:
        model: A model with or without adapters; one without storage gets an adapter without weights.
        folder: As ``PeftModel.save_pretrained`` writes it.
        where: Key that names it, for messages.

    Returns:
        The model with adapters, and the name of the new one.

    Raises:
        UserError: It is no LoRA adapter, replaces parts of its base, or does not fit this one.
    """
    path, fix = str(Path(folder).expanduser()), "give a LoRA adapter over the policy's base, or a whole model"
    with explained(f"cannot read the adapter {folder!r}", where=where, fix=fix):
        config = PeftConfig.from_pretrained(path)
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder!r} is no LoRA adapter but {type(config).__name__}", where=where, fix=fix)
    if config.modules_to_save or config.trainable_token_indices:
        text = f"the adapter {folder!r} replaces parts of its base too"
        raise UserError(text, where=where, fix="merge it into its base, and give that")
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    active = str(model.active_adapter) if isinstance(model, PeftModel) else None
    name = f"teacher_{len(model.peft_config) if active else 0}"
    with explained(f"the adapter {folder!r} does not fit the policy's base", where=where, fix=fix):
        if active is None:
            model = get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        if not next(model.parameters()).is_meta:
            weights = load_peft_weights(path, device="cpu")
            check_finite(weights.items(), where, fix)
            result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
            lacking = [key for key in result.missing_keys if f".{name}." in key]
            if result.unexpected_keys or lacking:
                raise UserError(
                    f"its weights are not those of its layers: {listed([*result.unexpected_keys, *lacking])}"
                )
    if active is not None:
        model.set_adapter(active)
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.requires_grad_(False)
    return model, name


@contextmanager
def _with(policy: Any, **settings: Any) -> Iterator[None]:
    """Other settings of the adapted layers; PEFT's own switches would set ``requires_grad`` of all their parameters."""
    adapted = [module for module in policy.modules() if all(hasattr(module, name) for name in settings)]
    before = [(layer, {name: getattr(layer, name) for name in settings}) for layer in adapted]
    try:
        for layer, _ in before:
            vars(layer).update(settings)
        yield
    finally:
        for layer, own in before:
            vars(layer).update(own)


def _scorer(policy: Any, sequences: Sequences, context: Callable[[], AbstractContextManager[None]]) -> Scorer:
    """Predictions within a context, of which a head with an adapter needs its own when its logits are made."""
    with context():
        score = scorer(policy, sequences)
    if not isinstance(head(policy), LoraLayer):
        return score

    def inside(span: slice) -> Tensor:
        with context():
            return score(span)

    return inside


def _layers(policy: Any, name: str) -> list[Any]:
    """The layers that an adapter changes."""
    return [module for module in policy.modules() if isinstance(module, LoraLayer) and name in module.lora_A]


def _factors(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """B and A of an adapter, whole and in float32."""
    return whole(layer.lora_B[name].weight).float(), whole(layer.lora_A[name].weight).float()


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
