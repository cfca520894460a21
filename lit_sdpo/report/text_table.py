"""A table of texts, for whoever can show tables and for whoever reads Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lit_sdpo.text import escape


@dataclass(frozen=True)
class TextTable:
    """Cells as they are read.

    Attributes:
        header: Names of the columns.
        rows: A list of cells each.
        numbers: Names of the columns that are aligned to the right; ``None`` means all but the first.
        foreign: Names of the columns whose texts come from data or models: in Markdown they are escaped, so that
            nothing in them acts as Markdown or HTML.
        note: A paragraph below the Markdown table.

    Example:
        >>> print(TextTable(["n-gram", "z"], [["a|b", "3.2"]], foreign=["n-gram"]).markdown())
        | n-gram | z |
        | --- | ---: |
        | a&#124;b | 3.2 |
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[str] | None = None
    foreign: Collection[str] = ()
    note: str = ""

    def cells(self) -> list[list[str]]:
        """Header and rows."""
        return [list(self.header), *map(list, self.rows)]

    def markdown(self) -> str:
        """A Markdown table."""
        numbers = self.header[1:] if self.numbers is None else self.numbers
        lines = [_line(self.header), _line(["---:" if name in numbers else "---" for name in self.header])]
        for row in self.rows:
            named = zip(self.header, row, strict=True)
            lines.append(_line([escape(x) if name in self.foreign else x.replace("|", "\\|") for name, x in named]))
        return "\n".join([*lines, "", self.note] if self.note else lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
