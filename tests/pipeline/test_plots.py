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


@pytest.mark.parametrize("dark", [False, True])
def test_curves_are_drawn_each_in_its_colour_on_the_ground_of_the_page(tmp_path: Path, dark: bool) -> None:
    lines = [Line("boxes", [0, 0.5, 1], [0.9, 0.8, 0.1]), Line("masks", [0, 0.5, 1], [0.6, 0.5, 0.1])]
    draw([panel("one", *lines[:1])], tmp_path / "one.png", dark=dark)
    draw([panel("two", *lines)], tmp_path / "two.png", dark=dark)
    one, two = (read_image(tmp_path / name) for name in ("one.png", "two.png"))
    assert share(one, DARK if dark else WHITE) > 0.8
    second = (230, 159, 0) if dark else (213, 94, 0)
    assert share(one, second) < 0.0005 < share(two, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_panels_are_laid_out_in_a_grid_and_may_be_empty(tmp_path: Path) -> None:
    """Gaps, single points, lines without a point, panels without a line, and names that are no formulas."""
    lines = [Line("$x_1$", [0, 0.5, 1], [1, float("nan"), 0]), Line("dot", [0.5], [0.5]), Line("none", [], [])]
    sizes = {}
    for count in (1, 3, 5):
        draw([panel(f"a_{place} $", *lines) for place in range(count)], tmp_path / "p.png")
        sizes[count] = read_image(tmp_path / "p.png").shape[:2]
    assert sizes[3][1] == 3 * sizes[1][1]
    assert sizes[1][1] < sizes[5][1] < 5 * sizes[1][1], "small ones"
    draw([panel("nothing")], tmp_path / "p.png")
    draw([panel("a", *lines), panel("b", *lines[:1])], tmp_path / "p.png")
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
