"""The policy of a module, and its base: the same model without its adapter, or with the weights of the run's start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lit_sdpo.errors import UserError
from lit_sdpo.policies.held import adapted, policy_in, tokenizer_in


@dataclass(frozen=True)
class Weights:
    """A model, and the context in which it has the weights that are meant.

    Attributes:
        model: A causal language model in eval mode.
        within: The context, such as that of a switched-off adapter.
    """

    model: Any
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


def policy_of(module: pl.LightningModule) -> Any:
    """The module's ``policy``, else its ``model``.

    Raises:
        UserError: It has neither.
    """
    return _needed(module, "policy or model", policy_in(module))


def tokenizer_of(module: pl.LightningModule) -> Any:
    """The module's ``tokenizer``.

    Raises:
        UserError: It has none.
    """
    return _needed(module, "tokenizer", tokenizer_in(module))


def base_of(policy: Any, weights: Mapping[str, Tensor]) -> Weights:
    """The policy with its adapter switched off, or a second model with ``weights`` that goes when this result goes."""
    if adapted(policy):
        return Weights(policy, policy.disable_adapter)
    model = copy.deepcopy(policy).requires_grad_(False).eval()
    model.load_state_dict(weights)
    return Weights(model)


def _needed(module: pl.LightningModule, name: str, value: Any) -> Any:
    if value is None:
        raise UserError(
            f"{type(module).__name__} has no {name}, which ResponseDrift needs",
            where="ResponseDrift",
            fix="set it to a Hugging Face causal language model and its tokenizer",
        )
    return value
