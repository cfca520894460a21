"""Counts the tokens of prompts as a model's chat template writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lit_sdpo.data.check.checker import Measure
from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.policies.chat import check_template, rendered
from lit_sdpo.policies.load import load_tokenizer


def token_counters(model: str, options: Mapping[str, Any] | None) -> tuple[Measure, Callable[[str], int]]:
    """What counts the tokens of chat prompts, and of other texts.

    Args:
        model: Whose tokenizer it is, a folder or Hub name.
        options: Further arguments of its chat template.

    Raises:
        UserError: There is no such tokenizer, or its template cannot be used.
    """
    try:
        tokenizer = load_tokenizer(model)
    except UserError as error:
        fix = f"{error.fix}; or name another one with --model" if error.fix else "name another one with --model"
        raise UserError(error.what, where=error.where, fix=fix) from error
    tokenizer.model_max_length = sys.maxsize  # else it warns of what is counted here
    check_template(tokenizer, options)

    def measure(rows: Sequence[Row]) -> tuple[list[int], dict[int, str]]:
        written, refused = rendered(tokenizer, [row.messages for row in rows], options)
        return [len(ids) for ids in written], refused

    return measure, lambda text: len(tokenizer.encode(text))
