"""Whether weights are those of the model that they are loaded into: names, shapes, numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lit_sdpo.errors import UserError

#: Names that a message shows.
SHOWN = 3


def check_loading(policy: nn.Module, info: Mapping[str, Any], source: str, where: str) -> None:
    """Refuse weights that Transformers could not put where they belong; it would go on with random ones.

    What may be absent (heads tied to embeddings, buffers) Transformers leaves out of its report itself. Weights of
    parts that the model does not have, such as the head of a reward model, are named in a warning; weights inside of
    its own parts, such as layers beyond the last one, are refused.

    Args:
        policy: The model.
        info: The loading report of ``from_pretrained(..., output_loading_info=True)``.
        source: Where the weights come from.
        where: Key or argument that names the source.

    Raises:
        UserError: With the first names.
    """
    parts = {name.partition(".")[0] for name, _ in policy.named_parameters()}
    beyond = sorted(info.get("unexpected_keys", ()))
    own = [name for name in beyond if name.partition(".")[0] in parts]
    shapes = [f"{name} ({list(have)} for {list(need)})" for name, have, need in sorted(info.get("mismatched_keys", ()))]
    missing = sorted(info.get("missing_keys", ()))
    problems = [("missing", missing), ("of another shape", shapes), ("without a place in the model", own)]
    if found := [f"{words}: {listed(names)}" for words, names in problems if names]:
        raise UserError(
            f"the weights of {source!r} are not those of the model that its config.json describes; {'; '.join(found)}",
            where=where,
            fix="give a folder whose config.json and weights belong together",
        )
    if others := [name for name in beyond if name not in own]:
        rank_zero_warn(f"the weights of {source} hold parts that the model does not have: {listed(others)}")


def check_same(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, fix: str) -> None:
    """Refuse weights whose names or shapes are others than a model's, or that are not finite.

    Args:
        given: The weights.
        wanted: Those of the model.
        where: The file they come from.
        fix: What would be right.

    Raises:
        UserError: With the first names.
    """
    both = [name for name in wanted if name in given]
    problems = [
        ("missing", [name for name in wanted if name not in given]),
        (
            "of another shape",
            [
                f"{name} ({list(given[name].shape)} for {list(wanted[name].shape)})"
                for name in both
                if given[name].shape != wanted[name].shape
            ],
        ),
        ("without a place in the model", [name for name in given if name not in wanted]),
    ]
    if found := [f"{words}: {listed(names)}" for words, names in problems if names]:
        raise UserError(f"its weights are not those of the model; {'; '.join(found)}", where=where, fix=fix)
    check_finite(given.items(), where, fix)


def check_finite(tensors: Iterable[tuple[str, Tensor]], where: str, fix: str) -> None:
    """Refuse weights that hold nan or infinite numbers.

    Args:
        tensors: Names and weights.
        where: Where they come from.
        fix: What would be right.

    Raises:
        UserError: With the first names.
    """
    bad = [name for name, tensor in tensors if not _finite(tensor)]
    if bad:
        raise UserError(f"weights are not finite: {listed(bad)}", where=where, fix=fix)


def _finite(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor.detach()).all())


def listed(names: list[str]) -> str:
    """The first names, and how many more there are.

    Example:
        >>> listed(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def report_kept_back() -> Iterator[None]:
    """Keep Transformers' table of what did not fit off the terminal: :func:`check_loading` says it in a line."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_no_report)


def _no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
