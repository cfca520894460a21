"""A figure with everything a reader needs beside it, or the sentence that stands in its place."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lit_sdpo.report.charts.style import PAGE, VARIABLES, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """The numbers of a figure.

    Example:
        >>> print(Table(["method", "score"], [["grpo", 0.5], ["sft", math.nan]]).csv(), end="")
        method,score
        grpo,0.5
        sft,
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def csv(self) -> str:
        """Full precision; undefined numbers are empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(_defined(row) for row in self.rows)
        return buffer.getvalue()


def _defined(row: Iterable[Any]) -> list[Any]:
    return ["" if x is None or (isinstance(x, float) and math.isnan(x)) else x for x in row]


@dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        name: Stem of its files.
        title: What is shown.
        finding: What is seen, in a sentence with numbers.
        caption: How to read it, its seeds, what its band is, and the paper's figure it corresponds to.
        alt: What it looks like, for who does not see it; the finding follows it.
        table: Its numbers.
        figure: The drawing.
    """

    name: str
    title: str
    finding: str
    caption: str
    alt: str
    table: Table
    figure: Figure = field(repr=False)

    @cached_property
    def svg(self) -> str:
        """The drawing, whose colours and identifiers are ready to stand in a page with others: see :func:`svg`."""
        return svg(self.figure, self.name, f"{self.alt} {self.finding}".strip())

    def standalone_svg(self) -> str:
        """The drawing as a file of its own, which follows the reader's theme."""
        opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        drawn = self.svg.replace("<svg", opening, 1)
        return drawn.replace(">", f"><style>{theme_css()}</style>", 1) + "\n"

    def _repr_png_(self) -> bytes:
        """What notebooks show of it."""
        return self.png()

    def png(self) -> bytes:
        """The drawing in the light theme, 150 dots per inch."""
        buffer = io.BytesIO()
        _settle(self.figure)
        with styled():
            self.figure.savefig(buffer, format="png", dpi=150, facecolor=PAGE.light, metadata={"Software": None})
        return buffer.getvalue()


@dataclass(frozen=True)
class Missing:
    """A figure that the runs have no data for.

    Attributes:
        name: Stem of the files it would have.
        title: What it would show.
        reason: What is missing, and the option or callback that gives it.
    """

    name: str
    title: str
    reason: str


def _settle(figure: Figure) -> None:
    """Lay out once and for all: another pass would move things by a hair, and so change the bytes."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        with styled():
            engine.execute(figure)
        figure.set_layout_engine("none")


def theme_css() -> str:
    """The colours of both themes as CSS variables."""
    light = "".join(f"{name}:{theme.light};" for name, theme in VARIABLES.items())
    dark = "".join(f"{name}:{theme.dark};" for name, theme in VARIABLES.items())
    return f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def svg(figure: Figure, name: str, alt: str) -> str:
    """A figure as an SVG element for use inside HTML.

    The same figure gives the same bytes. Colours of the theme are CSS variables, identifiers begin with ``name``, so
    several drawings can stand in one page, and nothing refers to an address.

    Args:
        figure: Drawn with :mod:`lit_sdpo.report.charts.style`.
        name: Of the drawing, unique in its page.
        alt: What it shows.
    """
    import matplotlib

    _settle(figure)
    buffer = io.StringIO()
    with styled(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for variable, theme in VARIABLES.items():
        text = text.replace(theme.light, f"var({variable})")
    natural = f"{figure.get_figwidth() * 72:.0f}pt"
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" style="--natural:{natural}"', 1)
