import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.plots import Line, Panel, columns_of, draw
from stages.errors import OutfinderError
from stages.images import read_image

WHITE, DARK = (255, 255, 255), (29, 29, 32)


def panel(title: str, *lines: Line) -> Panel:
    return Panel(title, "recall", "precision", lines, x_range=(0, 1), y_range=(0, 1))


def share(image: "np.ndarray", color: tuple[int, int, int]) -> float:
    """The share of pixels of about that colour."""
    return float((np.abs(image.astype(int) - color).max(axis=2) < 24).mean())


@pytest.mark.parametrize(("dark", "second"), [(False, (213, 94, 0)), (True, (230, 159, 0))])
def test_each_curve_has_its_colour_on_the_background_of_the_page(
    tmp_path: Path, dark: bool, second: tuple[int, int, int]
) -> None:
    lines = [Line("boxes", [0, 0.5, 1], [0.9, 0.8, 0.1]), Line("masks", [0, 0.5, 1], [0.6, 0.5, 0.1])]
    draw([panel("two", *lines)], tmp_path / "two.png", dark=dark)
    image = read_image(tmp_path / "two.png")
    assert share(image, DARK if dark else WHITE) > 0.8
    assert share(image, second) > 0.0005
    assert share(image, (230, 159, 0) if second[0] == 213 else (213, 94, 0)) < 0.0005
    assert [path.name for path in tmp_path.iterdir()] == ["two.png"]


def test_panels_are_laid_out_in_a_grid_and_may_be_empty(tmp_path: Path) -> None:
    """Gaps, single points, lines without a point, panels without a line, and names that are no formulas."""
    lines = [Line("$x_1$", [0, 0.5, 1], [1, float("nan"), 0]), Line("dot", [0.5], [0.5]), Line("none", [], [])]
    panels = {1: [panel("nothing")], 2: [panel("a", *lines), panel("b", *lines[:1])], 5: [panel("a_1 $", *lines)] * 5}
    widths = {}
    for count, some in panels.items():
        draw(some, str(tmp_path / "p.png"))
        widths[count] = read_image(tmp_path / "p.png").shape[1]
    assert widths[2] == 2 * widths[1]
    assert widths[1] < widths[5] < 5 * widths[1], "small ones"
    assert [columns_of(count) for count in (5, 7, 9, 12, 16)] == [5, 4, 3, 4, 4]


def test_bad_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        draw([], tmp_path / "p.png")
    with pytest.raises(OSError, match="nowhere"):
        draw([panel("a")], tmp_path / "nowhere" / "p.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutfinderError, match=r"pip install 'outfinder\[train\]'"):
        draw([panel("a")], tmp_path / "p.png")
    assert not list(tmp_path.iterdir())
