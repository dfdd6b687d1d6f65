"""Plots of curves and bars as PNG files, on light ground or dark, by matplotlib (extra ``train``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from stages.errors import OutfinderError
from stages.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS: Final = {
    False: ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1c1b1a"),
    True: ("#56b4e9", "#e69f00", "#2fc79c", "#e29cc3", "#f0e442", "#6f8cff", "#ecebe9"),
}
"""On light ground and on dark; distinct for colour-blind eyes too (Okabe and Ito, "Color Universal Design", 2008)."""

_DASHES: Final = ("-", (0, (4, 1.5)), (0, (1, 1.5)))
_MARKERS: Final = ("o", "s", "^")
_DPI: Final = 160


@dataclass(frozen=True, slots=True)
class Line:
    """One curve, with gaps at NaN; a single point is drawn as a dot.

    ``band`` has the lower and the upper ends of the points' intervals.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of lines; a range of None follows from the lines."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """One plot of stacked horizontal bars: one for each name, whose parts have these lengths."""

    title: str
    x_label: str
    names: Sequence[str]
    parts: Mapping[str, Sequence[float]]


def draw(panels: Sequence[Panel], path: Path, *, dark: bool = False) -> None:
    """Draw panels in a grid into a PNG file, which appears whole or not at all.

    Line k has the same colour in every panel. Panels whose lines have the same names share a legend.

    Raises:
        ValueError: there is no panel.
        OutfinderError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    with _drawing(panels, path, dark=dark) as figure:
        _draw_grid(figure, panels, dark=dark)


def draw_bars(panels: Sequence[Bars], path: Path, *, dark: bool = False) -> None:
    """Draw stacked bars, panels one above the other, into a PNG file; raises what :func:`draw` does."""
    with _drawing(panels, path, dark=dark) as figure:
        figure.set_size_inches(8.0, 0.5 + sum(0.7 + 0.45 * len(panel.names) for panel in panels))
        for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False).ravel(), panels, strict=True):
            left = [0.0] * len(panel.names)
            for color, (name, lengths) in zip(_COLORS[dark], panel.parts.items(), strict=False):
                axes.barh(panel.names, lengths, left=left, color=color, label=name, height=0.62)
                left = [start + length for start, length in zip(left, lengths, strict=True)]
            axes.set(title=panel.title, xlabel=panel.x_label)
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=8)


def require_matplotlib() -> ModuleType:
    """Return matplotlib; call this before a long run that ends in a plot.

    Raises:
        OutfinderError: it is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  an extra, and slow to import
    except ImportError as error:
        raise OutfinderError(
            "drawing curves needs matplotlib; install it with: pip install 'outfinder[train]'"
        ) from error
    return mpl


def columns_of(count: int) -> int:
    """Return how many panels stand side by side: up to three in one row, then a grid with the fewest empty places.

    >>> [columns_of(count) for count in (1, 2, 3, 4, 6, 13)]
    [1, 2, 3, 2, 3, 5]
    """
    if count <= 4:
        return 2 if count == 4 else count
    return min((5, 4, 3), key=lambda columns: -count % columns)


@contextmanager
def _drawing(panels: Sequence[object], path: Path, *, dark: bool) -> Iterator[Figure]:
    """Give an empty figure in our style, and save what was drawn."""
    if not panels:
        raise ValueError("a plot has at least one panel, got none")
    mpl = require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_style(dark=dark)):
        figure = Figure(layout="constrained")
        yield figure
        with replacing(path) as part:
            figure.savefig(part, format="png", dpi=_DPI)


def _draw_grid(figure: Figure, panels: Sequence[Panel], *, dark: bool) -> None:
    columns = columns_of(len(panels))
    rows = math.ceil(len(panels) / columns)
    many = len(panels) > 4
    width, height = (2.7, 2.25) if many else (5.2, 3.7)
    names = [line.name for line in panels[0].lines]
    one_legend = len(panels) > 1 and all([line.name for line in panel.lines] == names for panel in panels)
    per_row = _legend_columns(names, columns * width)
    legend_rows = math.ceil(len(names) / per_row) if one_legend else 0
    figure.set_size_inches(columns * width, rows * height + 0.14 * (legend_rows > 0) + 0.21 * legend_rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axes in zip(panels, grid, strict=False):
        _draw_panel(axes, panel, dark=dark)
        if panel.lines and not one_legend:
            axes.legend()
    for axes in grid[len(panels) :]:
        axes.remove()
    if one_legend:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=per_row)
    if many and len({(panel.x_label, panel.y_label) for panel in panels}) == 1:
        color = grid[0].xaxis.label.get_color()
        figure.supxlabel(panels[0].x_label, color=color)
        figure.supylabel(panels[0].y_label, color=color)
        for axes in grid[: len(panels)]:
            axes.set(xlabel="", ylabel="")


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Return how many entries of a legend fit side by side into so many inches.

    >>> _legend_columns(["a", "b"], 5.0), _legend_columns(["a name of some forty letters, or so, yes"] * 9, 10.4)
    (2, 3)
    """
    longest = max(map(len, names), default=0)
    return max(1, min(8, len(names), int(width / (0.65 + 0.068 * longest))))


def _draw_panel(axes: Axes, panel: Panel, *, dark: bool) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    colors = _COLORS[dark]
    for place, line in enumerate(panel.lines):
        round_, color = divmod(place, len(colors))
        look: dict[str, Any] = {"linestyle": _DASHES[round_ % len(_DASHES)]}
        if len(line.x) == 1:
            look = {"linestyle": "none", "marker": _MARKERS[round_ % len(_MARKERS)]}
        axes.plot(line.x, line.y, color=colors[color], label=line.name, zorder=3, **look)
        if line.band:
            axes.fill_between(line.x, *line.band, color=colors[color], alpha=0.16, linewidth=0, zorder=2)
    if all(float(x).is_integer() for line in panel.lines for x in line.x):  # epochs, steps
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.x_range:
        axes.set_xlim(panel.x_range)
    if panel.y_range:
        axes.set_ylim(panel.y_range)


def _style(*, dark: bool) -> Mapping[str, Any]:
    """Return matplotlib's settings: a light grid, no frame, the colours of the pages."""
    ground, ink, soft, line = ("#1d1d20", "#ecebe9", "#a6a3a0", "#303034") if dark else (
        "#ffffff", "#1c1b1a", "#65625e", "#e6e4e0"
    )  # fmt: skip
    return {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), ground),
        **dict.fromkeys(("text.color", "axes.titlecolor"), ink),
        **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), soft),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), line),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
        **dict.fromkeys(("axes.labelsize", "figure.labelsize", "legend.fontsize"), 8.5),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
        "axes.grid": True,
        "axes.axisbelow": True,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "lines.solid_capstyle": "round",
        "text.parse_math": False,  # a dollar in a label is a dollar
    }
