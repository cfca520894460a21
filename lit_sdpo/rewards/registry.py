"""Finds verifiers and other objects by name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verifier
from lit_sdpo.rewards.choice import ChoiceBox, ChoiceTag, ExactAnswer
from lit_sdpo.rewards.gym.verifier import ReasoningGym
from lit_sdpo.rewards.logic import ZebraGrid
from lit_sdpo.rewards.mathematics.boxed import MathBoxed
from lit_sdpo.rewards.numeric import NumberNear
from lit_sdpo.rewards.pool import Pooled
from lit_sdpo.rewards.programs.verifier import CodeTests
from lit_sdpo.rewards.text import ExactText
from lit_sdpo.rewards.tool_calls.verifier import FunctionCalls, ReactCalls

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


#: Import paths of further verifiers by the name that rows use.
REGISTERED: dict[str, str] = {}


def register_verifiers(paths: Mapping[str, str]) -> None:
    """Let rows name further verifiers; a configuration does it with ``data.verifiers``.

    Args:
        paths: Import path by name.

    Raises:
        UserError: A name is taken or no name, or there is no verifier at a path.
    """
    for name, path in paths.items():
        where = f"data.verifiers.{name}"
        if name in CONTRACTS:
            raise UserError(f"{name} is a contract of this package", where=where, fix="give yours another name")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError(f"{name!r} is no name", where=where, fix="use letters, digits, _ and -")
        try:
            in_process(path)
        except UserError as error:
            raise UserError(error.what, where=where, fix="give the path as package.module.name") from error
        if REGISTERED.get(name, path) != path:
            verifier.cache_clear()
        REGISTERED[name] = path


def check_named(name: str) -> None:
    """Whether a row may name a verifier like this: data chooses among what is there and brings no code of its own.

    Raises:
        UserError: It is no name that is registered.
    """
    if name not in CONTRACTS and name not in REGISTERED:
        known = ", ".join(sorted([*CONTRACTS, *REGISTERED]))
        own = "register your own in the configuration, data.verifiers: {name: package.module.name}"
        raise UserError(f"no such verifier {name!r}", fix=f"use one of: {known}; or {own}")


@cache
def verifier(name: str) -> Verifier:
    """The verifier of a scoring contract, a registered one, or any by its import path (``package.module.name``).

    Those that may hang or crash run in worker processes: the contracts that say so, and your own unless they have an
    attribute ``isolated = False``. Your own get 60 seconds for a completion, or what their attribute ``seconds`` says.

    Raises:
        UserError: If there is none of that name.

    Example:
        >>> type(verifier("mcq_xml")).__name__, type(verifier("math_boxed").verifier).__name__
        ('ChoiceTag', 'MathBoxed')
    """
    path = REGISTERED.get(name, name)
    found = in_process(path)
    return Pooled(path, found) if getattr(found, "isolated", path not in CONTRACTS) else found


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
        fix = (
            "give the path as package.module.name; modules beside the configuration and in the working folder are found"
        )
        raise UserError(f"cannot import {path!r}: {error}", fix=fix) from error
