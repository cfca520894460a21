"""The layouts that rows can come in, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_sdpo.data.layouts.choice import GPQA, MMLU
from lit_sdpo.data.layouts.layout import Layout
from lit_sdpo.data.layouts.math import DAPO, GSM8K, Problems, Verl
from lit_sdpo.data.layouts.packed import Dolci, LiveCodeBench
from lit_sdpo.data.layouts.paper import PaperRepository
from lit_sdpo.data.layouts.programs import MBPP, HumanEval
from lit_sdpo.data.layouts.rows import Rows
from lit_sdpo.data.layouts.tools import BFCL
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError

#: In the order in which they are recognised.
LAYOUTS: dict[str, type[Layout]] = {
    layout.name: layout
    for layout in (
        PaperRepository,
        Rows,
        Verl,
        BFCL,
        DAPO,
        GSM8K,
        HumanEval,
        MBPP,
        LiveCodeBench,
        MMLU,
        GPQA,
        Dolci,
        Problems,
    )
}


def find_layout(source: Source, first: Mapping[str, Any], place: str = "") -> Layout:
    """The layout that a source names, or the one that its first row is recognised as.

    Args:
        source: Where the rows come from.
        first: The first row that could be read.
        place: Where that row stands, for messages.

    Raises:
        UserError: There is no layout of that name, or the row fits none.
    """
    if source.layout is not None:
        if source.layout not in LAYOUTS:
            raise UserError(
                f"there is no layout {source.layout!r}",
                where=f"{source}, layout",
                fix=f"use one of: {', '.join(LAYOUTS)}",
            )
        return LAYOUTS[source.layout](source)
    for layout in LAYOUTS.values():
        if layout.fits(layout.view(first, source.columns)):
            return layout(source, recognised=True)
    if Rows.asks_only(Rows.view(first, source.columns)):
        return Rows(source, recognised=True)
    raise UserError(
        f"the columns {', '.join(map(str, first)) or '(none)'} are of no known layout",
        where=place or str(source),
        fix="name the columns of question and answer, columns: {prompt: ..., answer: ...}, or a layout:"
        f" {', '.join(LAYOUTS)}",
    )
