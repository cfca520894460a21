"""Finds verifiers and other objects by name."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verifier
from lit_sdpo.rewards.choice import ChoiceBox, ChoiceTag, ExactAnswer
from lit_sdpo.rewards.code import CodeTests
from lit_sdpo.rewards.gym import ReasoningGym
from lit_sdpo.rewards.logic import ZebraGrid
from lit_sdpo.rewards.math import MathBoxed
from lit_sdpo.rewards.numeric import NumberNear
from lit_sdpo.rewards.pool import Pooled
from lit_sdpo.rewards.text import ExactText
from lit_sdpo.rewards.tool_call import FunctionCalls, ReactCalls

CONTRACTS: dict[str, type[Verifier]] = {
    "math_boxed": MathBoxed,
    "mcq_xml": ChoiceTag,
    "mcq_boxed": ChoiceBox,
    "exact_answer": ExactAnswer,
    "exact_text": ExactText,
    "numeric_boxed": NumberNear,
    "tooluse_react": ReactCalls,
    "bfcl_ast": FunctionCalls,
    "zebra_json": ZebraGrid,
    "reasoning_gym": ReasoningGym,
    "code_tests": CodeTests,
}


@cache
def verifier(name: str) -> Verifier:
    """The verifier of a scoring contract, or any verifier by its import path (``package.module.name``).

    Those that may hang or crash run in worker processes: the contracts that say so, and your own unless they have an
    attribute ``isolated = False``. Your own get 60 seconds for a completion, or what their attribute ``seconds`` says.

    Raises:
        UserError: If there is none of that name.

    Example:
        >>> type(verifier("mcq_xml")).__name__, type(verifier("math_boxed").verifier).__name__
        ('ChoiceTag', 'MathBoxed')
    """
    found = in_process(name)
    return Pooled(name, found) if getattr(found, "isolated", name not in CONTRACTS) else found


def in_process(name: str) -> Any:
    """The same verifier without a process around it.

    Raises:
        UserError: If there is none of that name.
    """
    if name in CONTRACTS:
        return CONTRACTS[name]()
    known = ", ".join(sorted(CONTRACTS))
    if "." not in name:
        raise UserError(f"no such verifier {name!r}", fix=f"use one of: {known}; or the import path of your own")
    found = import_object(name)
    instance = found() if isinstance(found, type) else found
    if not callable(instance):
        raise UserError(f"{name} is not a verifier", fix="give a callable that takes (completion, row)")
    return instance


def import_object(path: str) -> Any:
    """Import ``package.module.name``.

    Raises:
        UserError: If the module or the name in it does not exist.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import {path!r}: {error}", fix="give the path as package.module.name") from error
