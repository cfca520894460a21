"""HTML from plain values: everything that comes from runs is escaped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

from lit_sdpo.text import HIDDEN


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    r"""A value as HTML: markup as it is, anything else escaped, without characters that do not show or that turn text.

    Example:
        >>> text("a < b\x1b\u202e")
        'a &lt; b'
    """
    if isinstance(value, Markup):
        return value
    shown = "".join(c for c in str(value) if c == "\n" or unicodedata.category(c) not in HIDDEN)
    return Markup(escape(shown))


def element(tag: str, *content: object, **attributes: str) -> Markup:
    """An element; ``class_`` stands for ``class``.

    Example:
        >>> element("p", "1 < 2", class_="quiet")
        '<p class="quiet">1 &lt; 2</p>'
    """
    named = "".join(f' {name.rstrip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{named}>{''.join(map(text, content))}</{tag}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other."""
    return Markup(text(between).join(map(text, parts)))


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, label: str, columns: Sequence[str] = ()
) -> Markup:
    """A table that scrolls inside its own box; the first cell of a row is its heading.

    Args:
        header: Titles of the columns.
        rows: Cells, escaped unless they are markup.
        label: What the table is, for who does not see it.
        columns: A CSS class per column: ``number``, ``whole`` or ``wide``; may end early.
    """
    classes = [*columns, *[""] * (len(header) - len(columns))]

    def cell(tag: str, value: object, name: str, scope: str = "") -> Markup:
        extra = {"class_": name} if name else {}
        return element(tag, value, **extra, **({"scope": scope} if scope else {}))

    head = join(cell("th", value, name, "col") for value, name in zip(header, classes, strict=True))
    body = join(
        element(
            "tr",
            cell("th", row[0], classes[0], "row"),
            *(cell("td", value, name) for value, name in zip(row[1:], classes[1:], strict=True)),
        )
        for row in rows
    )
    whole = element("table", element("thead", element("tr", head)), element("tbody", body))
    return scrolling(whole, label)


def scrolling(content: Markup, label: str) -> Markup:
    """A box whose content scrolls sideways inside of it, by keyboard as well."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def anchor(name: str) -> str:
    """An identifier for use in a page.

    Example:
        >>> anchor("Left-out runs")
        'left-out-runs'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
