"""Plots of curves as PNG files with a light or a dark background, by matplotlib (extra ``train``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
"""By whether the background is dark; distinct for colour-blind people too (Okabe and Ito 2008)."""

_DASHES: Final = ("-", (0, (4, 1.5)), (0, (1, 1.5)))
_DPI: Final = 160


@dataclass(frozen=True, slots=True)
class Line:
    """One curve, with gaps at NaN; a single point is drawn as a dot, and ``band``, low and high, is shaded."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of lines; a range of None is chosen to fit them."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


def draw(panels: Sequence[Panel], path: Path | str, *, dark: bool = False) -> None:
    """Draw panels in a grid into a PNG file, atomically.

    Line k has the same colour in every panel. Panels whose lines have the same names share a legend.

    Raises:
        ValueError: there is no panel.
        OutfinderError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    if not panels:
        raise ValueError("a plot has at least one panel, got none")
    columns = columns_of(len(panels))
    rows = math.ceil(len(panels) / columns)
    small = len(panels) > 4
    width, height = (2.7, 2.25) if small else (5.2, 3.7)
    names = [line.name for line in panels[0].lines]
    shared = len(panels) > 1 and all([line.name for line in panel.lines] == names for panel in panels)
    entry_width = 0.65 + 0.068 * max(map(len, names), default=0)
    per_row = max(1, min(8, len(names), int(columns * width / entry_width)))
    legend_height = 0.14 + 0.21 * math.ceil(len(names) / per_row) if shared and names else 0
    with figure(path, dark=dark) as page:
        page.set_size_inches(columns * width, rows * height + legend_height)
        grid = page.subplots(rows, columns, squeeze=False).ravel()
        for panel, axes in zip(panels, grid, strict=False):
            _draw_panel(axes, panel)
            if panel.lines and not shared:
                axes.legend()
        for axes in grid[len(panels) :]:
            axes.remove()
        if shared:
            page.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=per_row)
        if small and len({(panel.x_label, panel.y_label) for panel in panels}) == 1:
            color = grid[0].xaxis.label.get_color()
            page.supxlabel(panels[0].x_label, color=color)
            page.supylabel(panels[0].y_label, color=color)
            for axes in grid[: len(panels)]:
                axes.set(xlabel="", ylabel="")


@contextmanager
def figure(path: Path | str, *, dark: bool = False) -> Iterator[Figure]:
    """Yield an empty figure in the style of the pages, and save it as a PNG file; raises as :func:`draw` does."""
    mpl = require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_style(dark=dark)):
        page = Figure(layout="constrained")
        yield page
        with replacing(Path(path)) as part:
            page.savefig(part, format="png", dpi=_DPI)


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
    """Return the number of columns of a grid: up to three panels in one row, then as few empty places as possible.

    >>> [columns_of(count) for count in (1, 2, 3, 4, 6, 13)]
    [1, 2, 3, 2, 3, 5]
    """
    return {1: 1, 2: 2, 3: 3, 4: 2}.get(count) or min((5, 4, 3), key=lambda columns: -count % columns)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    for line in panel.lines:
        dot: dict[str, Any] = {"linestyle": "none", "marker": "o"} if len(line.x) == 1 else {}
        (drawn,) = axes.plot(line.x, line.y, label=line.name, zorder=3, **dot)
        if line.band:
            axes.fill_between(line.x, *line.band, color=drawn.get_color(), alpha=0.16, linewidth=0, zorder=2)
    if all(float(x).is_integer() for line in panel.lines for x in line.x):  # epochs, steps
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axes.set_xlim(panel.x_range)
    axes.set_ylim(panel.y_range)


def _style(*, dark: bool) -> dict[str, Any]:
    """Return matplotlib's settings: a light grid, no frame, the colours of the pages."""
    from cycler import cycler  # noqa: PLC0415  comes with matplotlib

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
        "axes.prop_cycle": cycler(linestyle=_DASHES) * cycler(color=_COLORS[dark]),
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
