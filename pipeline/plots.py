"""Pictures of curves: a grid of panels as PNG, on light ground or dark, by matplotlib (extra ``train``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
"""On light ground and on dark: told apart by colour-blind eyes too (Okabe and Ito, "Color Universal Design", 2008)."""

_DASHES: Final = ("-", (0, (4, 1.5)), (0, (1, 1.5)))
"""A line's style once the colours are used up."""

_MARKERS: Final = ("o", "s", "^")
"""Likewise a dot's shape."""

_DPI: Final = 160


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; of a single point a dot is drawn, and a NaN is a gap.

    ``band`` are the lower and the upper ends of the intervals that its points have.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of one or more lines; a range that is None follows from the lines."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """One plot of stacked bars that lie: a bar for each name, in ``parts`` the lengths of each part in their order."""

    title: str
    x_label: str
    names: Sequence[str]
    parts: Mapping[str, Sequence[float]]


def draw(panels: Sequence[Panel], path: Path, *, dark: bool = False) -> None:
    """Draw panels in a grid into a PNG file, which appears whole or not at all.

    Line k has the same colour in every panel. Panels whose lines have the same names share one legend.

    Raises:
        ValueError: there is no panel.
        OutfinderError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    if not panels:
        raise ValueError("a picture of curves has at least one panel, got none")
    mpl = require_matplotlib()
    with mpl.rc_context(_style(dark=dark)):
        figure = _figure(panels, dark=dark)
        with replacing(path) as part:
            figure.savefig(part, format="png", dpi=_DPI)


def draw_bars(panels: Sequence[Bars], path: Path, *, dark: bool = False) -> None:
    """Draw stacked bars, panels one above the other, into a PNG file; raises as :func:`draw` does."""
    if not panels:
        raise ValueError("a picture of bars has at least one panel, got none")
    mpl = require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_style(dark=dark)):
        figure = Figure(figsize=(8.0, 0.5 + sum(0.7 + 0.45 * len(one.names) for one in panels)), layout="constrained")
        for axes, bars in zip(figure.subplots(len(panels), 1, squeeze=False).ravel(), panels, strict=True):
            left = [0.0] * len(bars.names)
            for color, (name, lengths) in zip(_COLORS[dark], bars.parts.items(), strict=False):
                axes.barh(bars.names, lengths, left=left, color=color, label=name, height=0.62)
                left = [start + length for start, length in zip(left, lengths, strict=True)]
            axes.set(title=bars.title, xlabel=bars.x_label)
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=8)
        with replacing(path) as part:
            figure.savefig(part, format="png", dpi=_DPI)


def require_matplotlib() -> ModuleType:
    """Matplotlib; ask before a long run whose end is a picture.

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
    """How many panels stand side by side: up to three in one row, then a grid with the fewest empty places.

    >>> [columns_of(count) for count in (1, 2, 3, 4, 6, 13)]
    [1, 2, 3, 2, 3, 5]
    """
    if count <= 4:
        return 2 if count == 4 else count
    return min((5, 4, 3), key=lambda columns: -count % columns)


def _figure(panels: Sequence[Panel], *, dark: bool) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415

    columns = columns_of(len(panels))
    rows = math.ceil(len(panels) / columns)
    small = len(panels) > 4
    wide, high = (2.7, 2.25) if small else (5.2, 3.7)
    one_legend = len(panels) > 1 and len({tuple(line.name for line in panel.lines) for panel in panels}) == 1
    across = _across([line.name for line in panels[0].lines], columns * wide)
    keys = math.ceil(len(panels[0].lines) / across) if one_legend else 0
    figure = Figure(figsize=(columns * wide, rows * high + 0.14 * (keys > 0) + 0.21 * keys), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axes in zip(panels, grid, strict=False):
        _fill(axes, panel, dark=dark)
        if panel.lines and not one_legend:
            axes.legend()
    for axes in grid[len(panels) :]:
        axes.remove()
    if one_legend:
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=across)
    if small and len({(panel.x_label, panel.y_label) for panel in panels}) == 1:
        soft = grid[0].xaxis.label.get_color()
        figure.supxlabel(panels[0].x_label, color=soft)
        figure.supylabel(panels[0].y_label, color=soft)
        for axes in grid[: len(panels)]:
            axes.set(xlabel="", ylabel="")
    return figure


def _across(names: Sequence[str], wide: float) -> int:
    """How many entries of a legend stand side by side in so many inches.

    >>> _across(["a", "b"], 5.0), _across(["a name of some forty letters, or so, yes"] * 9, 10.4)
    (2, 3)
    """
    longest = max(map(len, names), default=0)
    return max(1, min(8, len(names), int(wide / (0.65 + 0.068 * longest))))


def _fill(axes: Axes, panel: Panel, *, dark: bool) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    colors = _COLORS[dark]
    for place, line in enumerate(panel.lines):
        again, color = divmod(place, len(colors))
        look: dict[str, Any] = {"linestyle": _DASHES[again % len(_DASHES)]}
        if len(line.x) == 1:
            look = {"linestyle": "none", "marker": _MARKERS[again % len(_MARKERS)]}
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
    """Matplotlib's settings: light grid, no box, the colours of the pages."""
    ground, ink, soft, line = ("#1d1d20", "#ecebe9", "#a6a3a0", "#303034") if dark else (
        "#ffffff", "#1c1b1a", "#65625e", "#e6e4e0"
    )  # fmt: skip
    return {
        "figure.facecolor": ground,
        "axes.facecolor": ground,
        "savefig.facecolor": ground,
        "text.color": ink,
        "axes.titlecolor": ink,
        "axes.labelcolor": soft,
        "xtick.color": soft,
        "ytick.color": soft,
        "axes.edgecolor": line,
        "grid.color": line,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 8.5,
        "figure.labelsize": 8.5,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "lines.solid_capstyle": "round",
        "text.parse_math": False,  # a dollar in a label is a dollar
    }
