"""The one exception for what a user can mend."""

from __future__ import annotations


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
        text = f"{where}: {what}" if where else what
        if fix:
            text = f"{text.rstrip('.')}. {fix[0].upper()}{fix[1:]}".rstrip(".") + "."
        super().__init__(text)
