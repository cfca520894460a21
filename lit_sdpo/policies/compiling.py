"""The parts of decoder layers through ``torch.compile`` where a model learns or gives targets, and nowhere else."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn

from lit_sdpo.errors import UserError
from lit_sdpo.policies.sharding import layers_of

BACKEND = "inductor"
"""What ``torch.compile`` translates with."""


def compile_layers(model: Any) -> int:
    """Run the norms, attention modules and feed-forward parts of a model compiled, in place.

    What attention does between its projections stays as it is, and so does what checkpoints a layer; the rest of each
    part becomes one graph, or two. All layers share the graphs, a deep copy of the model shares them too, and sizes are
    symbolic, so that batches of any lengths run on the same ones. Names and states do not change. In inference mode,
    where completions are sampled, everything runs as it was.

    Args:
        model: A causal language model of Transformers, before adapters are put into it.

    Returns:
        How many parts.

    Raises:
        UserError: This machine lacks what compiling needs.
    """
    check_compiler()
    forwards: dict[Any, Callable[..., Any]] = {}
    parts = [part for layer in layers_of(model) for part in layer.children() if _computes(part)]
    for part in parts:
        plain = part.forward.__func__  # type: ignore[attr-defined]
        if plain not in forwards:
            forwards[plain] = _where_useful(plain)
        # Bound anew, so that a deep copy calls itself.
        part.forward = MethodType(forwards[plain], part)  # type: ignore[method-assign]
    return len(parts)


def _computes(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None and not isinstance(part, nn.ModuleList | nn.ModuleDict)


def check_compiler() -> None:
    """Find out before training whether graphs can be compiled here.

    Raises:
        UserError: There is no C++ compiler, or Python's header files are missing.
    """
    if BACKEND != "inductor":
        return
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise _lacking("no C++ compiler", "install g++, or set CXX to one") from error
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        raise _lacking("no header files of Python (Python.h)", "install them (python3-dev)")


def _where_useful(plain: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(plain, dynamic=True, backend=BACKEND)

    def forward(part: Any, *args: Any, **given: Any) -> Any:
        return (plain if torch.is_inference_mode_enabled() else compiled)(part, *args, **given)

    return forward


def _lacking(what: str, fix: str) -> UserError:
    return UserError(
        f"this machine has {what}, which torch.compile needs", where="model.compile", fix=f"{fix}, or leave it off"
    )
