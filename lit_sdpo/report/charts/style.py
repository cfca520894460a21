"""How every figure of a report looks: colours of both themes, one look per method, sizes and units."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Theme(NamedTuple):
    """One role's colour on a light and on a dark page."""

    light: str
    dark: str


#: Methods' colours, in order. Chosen by search around the palette of Okabe and Ito: at least 3:1 against the page, and
#: at least 20 apart in CIE Lab for every two of them under normal vision and all three kinds of colour blindness.
METHODS: tuple[Theme, ...] = (
    Theme("#0a4cb3", "#4f84e3"),
    Theme("#a32718", "#ff5b20"),
    Theme("#00a858", "#0edb8b"),
    Theme("#ab5a8f", "#dd73a6"),
    Theme("#d67c12", "#ffcf19"),
    Theme("#6786ff", "#a7ccff"),
    Theme("#1c2026", "#e7eaef"),
)
PAGE = Theme("#ffffff", "#14171c")
INK = Theme("#1b1f24", "#e6e9ee")
QUIET = Theme("#5b6470", "#9aa4b2")
GRID = Theme("#dfe3e8", "#2c333d")
HOLDS = Theme("#cde7f5", "#123c55")
FAILS = Theme("#f7dccb", "#5a2a10")
OPEN = Theme("#eceef1", "#262c35")

#: CSS variable of every colour that follows the page's theme.
VARIABLES: dict[str, Theme] = {f"--method-{i}": theme for i, theme in enumerate(METHODS)} | {
    "--page": PAGE,
    "--ink": INK,
    "--quiet": QUIET,
    "--grid": GRID,
    "--holds": HOLDS,
    "--fails": FAILS,
    "--open": OPEN,
}
MARKERS = "osD^vPX<>p"
DASHES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (5, 1.6)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (1.6, 1.4)),
)
FONT_SIZE = 11.0
#: Widest figure in inches: a page is as wide, so its letters keep their size.
WIDEST = 12.2


@dataclass(frozen=True)
class Look:
    """How one method is drawn in every figure."""

    colour: str
    marker: str
    dash: tuple[int, tuple[float, ...]]


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method, by its place; no two of the first 140 are the same.

    Example:
        >>> found = looks(["grpo", "sdpo"])
        >>> found["grpo"].marker, found["sdpo"].marker
        ('o', 's')
    """
    return {
        method: Look(METHODS[i % len(METHODS)].light, MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, method in enumerate(methods)
    }


#: What each logged number is called on an axis, with its unit.
LABELS: Mapping[str, str] = {
    "rollout/entropy": "policy entropy\n(nats per token)",
    "sdpo/divergence": "teacher-student divergence\n(nats per token)",
    "rollout/length": "response length\n(tokens)",
    "rollout/reward": "mean reward\n(0 to 1)",
    "rollout/truncated": "cut-off responses\n(share, 0 to 1)",
    "spectrum_shift": "shift of singular values\n(relative, no unit)",
    "left_angle": "largest principal angle\n(degrees)",
    "mask_overlap": "overlap of principal masks\n(IoU, 0 to 1)",
    "mask_update": "principal weights touched\n(IoU, 0 to 1)",
    "boxed": "\\boxed{ per response",
    "leakage": "responses with another\ntask's format (share)",
    "loops": "responses that end in\na loop (share)",
}


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour with parts in [0, 1], as in the contrast rule of WCAG 2.

    Example:
        >>> luminance((1.0, 1.0, 1.0))
        1.0
    """
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def short(name: str, most: int = 36) -> str:
    """A name that fits into a legend.

    Example:
        >>> short("lr=1e-5/teacher=ema/rate=0.05/world=far", 20)
        'lr=1e-5/t…/world=far'
    """
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings for drawing and for writing a figure; they are as before afterwards."""
    # Imported here: only who draws pays for it.
    import matplotlib

    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
        "font.size": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "axes.labelsize": FONT_SIZE,
        "xtick.labelsize": FONT_SIZE - 1,
        "ytick.labelsize": FONT_SIZE - 1,
        "legend.fontsize": FONT_SIZE - 0.5,
        "text.color": INK.light,
        "axes.labelcolor": INK.light,
        "axes.edgecolor": QUIET.light,
        "axes.facecolor": "none",
        "figure.facecolor": PAGE.light,
        "xtick.color": QUIET.light,
        "ytick.color": QUIET.light,
        "xtick.labelcolor": INK.light,
        "ytick.labelcolor": INK.light,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID.light,
        "grid.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "axes.formatter.useoffset": False,
        "legend.frameon": False,
        "lines.linewidth": 1.9,
        "lines.markersize": 6.0,
        "svg.fonttype": "none",
        "hatch.linewidth": 0.6,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Names may be in any script; a browser has a font for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 4.0
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its panels, row by row; to be called within :func:`styled`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def legend(figure: Figure, shown: Mapping[str, Look], *, lines: bool = True) -> None:
    """The methods' looks, below the panels and so never over the data."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colour, linestyle=look.dash if lines else "none", marker=look.marker)
        for look in shown.values()
    ]
    # A label that begins with an underscore would be left out.
    names = [short(method) if method[:1] != "_" else f" {short(method)}" for method in shown]
    longest = max(map(len, names), default=1)
    columns = max(1, min(len(names), int(figure.get_figwidth() * 11 / (longest + 6))))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=3.2 if lines else 1.2)


def swatch(look: Look) -> Figure:
    """A short line with its marker, for a table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(0.55, 0.2), dpi=100)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], color=look.colour, linestyle=look.dash, marker=look.marker, markevery=[1])
        axes.set_xlim(0, 2)
    return figure
