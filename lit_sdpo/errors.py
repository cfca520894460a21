"""The one exception for what a user can mend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input: what is wrong, where, and what would be right.

    The command line prints it without a traceback and leaves with exit code 2.

    Args:
        what: One sentence that says what is wrong.
        where: File, line, configuration key or argument that is wrong.
        fix: What would be right.

    Example:
        >>> print(UserError("no such task 'mth'", where="data.stages[0]", fix="use one of: math, sci"))
        data.stages[0]: no such task 'mth'. Use one of: math, sci.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        where = "\\n".join(where.splitlines())  # paths and names may hold line breaks, a place is in one line
        what = re.sub(r"\r|\n(?!  )", r"\\n", what)  # so may values; a list below a message is set in by two blanks
        text = f"{where}: {what}" if where else what
        if fix:
            text = f"{text.rstrip('.')}. {fix[0].upper()}{fix[1:]}".rstrip(".") + "."
        super().__init__(text)


@contextmanager
def explained(what: str, *, where: str = "", fix: str = "") -> Iterator[None]:
    """Turn whatever other libraries raise over a user's files and options into one explanation.

    Around code of this package it would hide defects. A lack of memory goes on as it is: it is no mistake.

    Args:
        what: What could not be done.
        where: File, key or argument that it is about.
        fix: What would be right.

    Raises:
        UserError: In place of any exception.

    Example:
        >>> with explained("cannot load 'm'", where="model.model_name"):
        ...     {}["type"]
        Traceback (most recent call last):
        lit_sdpo.errors.UserError: model.model_name: cannot load 'm' (KeyError: 'type')
    """
    try:
        yield
    except MemoryError:
        raise
    except UserError as error:
        if error.where:
            raise
        raise UserError(error.what, where=where, fix=error.fix) from error
    except Exception as error:
        if lacks_memory(error):
            raise
        raise UserError(f"{what} ({reason(error)})", where=where, fix=fix) from error


def lacks_memory(error: BaseException) -> bool:
    """Whether torch could not get the memory it wanted."""
    return isinstance(error, RuntimeError) and ("out of memory" in str(error) or "can't allocate memory" in str(error))


def reason(error: BaseException, most: int = 200) -> str:
    r"""What an exception says, in one line; with its name where the text alone says little.

    Example:
        >>> reason(ValueError("no such file\nsee the manual")), reason(KeyError("type"))
        ('no such file', "KeyError: 'type'")
    """
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = str(root).strip().splitlines()
    text = next((line.strip() for line in lines if line.strip()), "")[:most]
    if text.count(" ") > 1:  # a sentence
        return text
    return f"{type(root).__name__}: {text}" if text else type(root).__name__
