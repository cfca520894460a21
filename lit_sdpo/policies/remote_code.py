"""Python code that lies beside a model: run only where it is asked for, and never without a word."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from lit_sdpo.errors import UserError

_log = logging.getLogger(__name__)


@contextmanager
def own_code(source: str, asked: bool, where: str) -> Iterator[bool]:
    """Around what Transformers loads: gives its ``trust_remote_code``, and says what that means.

    Args:
        source: Folder or Hub name of the model.
        asked: What ``model.trust_remote_code`` says.
        where: Key or argument that names the model.

    Raises:
        UserError: The model needs code of its own, and that was not asked for.
    """
    if asked:
        _warn(source)
    try:
        yield asked
    except ValueError as error:
        if asked or "trust_remote_code" not in str(error):
            raise
        raise UserError(
            f"{source!r} needs Python code that lies beside it, which is not run unasked",
            where=where,
            fix="read that code, and if you trust it set model.trust_remote_code to true",
        ) from error


@cache
def _warn(source: str) -> None:
    """Once for a model: its tokenizer, its configuration and its weights are loaded one after the other."""
    _log.warning("trust_remote_code: Python code in %s runs in this process, with all that it may do", source)
