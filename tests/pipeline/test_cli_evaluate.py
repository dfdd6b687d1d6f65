"""``outfinder evaluate detector``: the table, the JSON, the page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import DETECTOR, run
from click.testing import Result
from conftest import draw

from pipeline.config import Config
from pipeline.evaluation import describe_detector
from stages.images import read_image, write_jpeg

HOSTILE = "<b>&'\".jpg"


def garment(number: int, image: int, category: int, x: int, y: int, wide: int, high: int) -> dict[str, Any]:
    outline = [[x, y, x + wide, y, x + wide, y + high, x, y + high]]
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0,
        "bbox": [x, y, wide, high], "area": wide * high, "segmentation": outline,
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dress that is found, a top that is called a dress, one that is not found, and a photo that is missing."""
    street = tmp_path_factory.mktemp("street")
    write_jpeg(street / "a two.jpg", draw("red", "blue"))
    write_jpeg(street / HOSTILE, np.full((40, 40, 3), 255, np.uint8))
    dataset = {
        "images": [
            {"id": 1, "file_name": "a two.jpg", "width": 128, "height": 64},
            {"id": 2, "file_name": HOSTILE, "width": 40, "height": 40},
            {"id": 3, "file_name": "gone.jpg", "width": 40, "height": 40},
        ],
        "categories": [{"id": 1, "name": "top"}, {"id": 2, "name": "dress"}, {"id": 3, "name": "person"}],
        "annotations": [
            garment(1, 1, 2, 16, 8, 32, 48),
            garment(2, 1, 1, 80, 8, 32, 48),
            garment(3, 2, 1, 5, 5, 20, 25),
            garment(4, 3, 1, 5, 5, 20, 20),
        ],
    }
    truth = tmp_path_factory.mktemp("truth") / "truth.json"
    truth.write_text(json.dumps(dataset))
    return truth, street


@pytest.fixture(scope="module")
def evaluated(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A run with a page, in a folder of its own, and JSON in ``f.json`` beside it."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.cli.progress.INTERVAL_S", -1.0)
        outputs = ("-o", folder / "page", "--json", folder / "f.json")
        return run("evaluate", "detector", *data, *DETECTOR, *outputs, status=1), folder


def figures_of(data: tuple[Path, Path], *options: object) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(
        run("evaluate", "detector", *data, *DETECTOR, *options, "--json", "-", status=1).stdout
    )
    return out  # fmt: skip


def test_the_table_is_for_people_and_bad_photos_have_their_line(evaluated: tuple[Result, Path]) -> None:
    result, _ = evaluated
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert rows["dress"] == ["1", "1.000", "1.000", "1", "0", "1", *rows["dress"][-1:]]
    assert rows["top"] == ["2", "0.000", "0.000", "0", "2", "0", "–"]
    assert rows["all"] == ["3", "0.500", "0.500", "1", "2", "1"]
    assert rows["box"][1] == "0.500"
    assert "s per photo" in result.stdout
    assert "gone.jpg: was not found" in result.stderr
    assert re.search(r"evaluated 1 of 3 photos.* left", result.stderr)
    assert "evaluated 3 photos, 1 failed" in result.stderr
    assert "category 3 (person) is not one of the labels" in result.stderr


def test_json_has_all_figures_on_standard_output_or_in_a_file(data: tuple[Path, Path], evaluated: Any) -> None:
    out = figures_of(data)
    assert list(out)[:3] == ["detector", "detector_weights", "device"]
    assert (out["detector"], out["weights_bytes"]) == (DETECTOR[1], None)
    assert (out["photos"], out["garments"], out["missed"], out["false_alarms"]) == (2, 3, 2, 1)
    assert list(out["box"]) == list(out["mask"]) == ["ap", "ap50", "ap75", "recall"]
    assert out["box"]["ap50"] == out["mask"]["ap50"] == 0.5
    assert out["labels"]["top"]["box"] == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, "recall": 0.0}
    assert out["threshold"] == Config().min_score
    assert out["failed"] == {"gone.jpg": "was not found"}
    assert 0 <= out["latency"]["median_s"] <= out["latency"]["p95_s"]
    for name in ("f.json", "page/figures.json"):
        assert json.loads((evaluated[1] / name).read_text()) | {"latency": 0} == out | {"latency": 0}


def test_the_page_shows_figures_curves_and_mistakes(data: tuple[Path, Path], evaluated: tuple[Result, Path]) -> None:
    page = evaluated[1] / "page"
    html = (page / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|@import|url\(", html)
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', html)
    assert sorted(pictures) == ["curves-dark.png", "curves.png", "mistakes/confusion-1.jpg", "mistakes/miss-1.jpg"]
    assert all(read_image(page / name).size for name in pictures)
    for text in (
        "annotated as top",
        "nothing similar nearby",
        "&lt;b&gt;&amp;&#39;&#34;.jpg",
        "gone.jpg was not found",
    ):
        assert text in html
    assert "<b>" not in html
    curve = json.loads((page / "curves.json").read_text())["dress"]["box"]
    assert (len(curve["recall"]), curve["precision"][-1]) == (101, 1.0)
    assert not list(page.rglob("*.part"))
    left, top, wide, high = map(int, re.findall(r'viewBox="(\d+) (\d+) (\d+) (\d+)"', html)[0])
    assert 0 <= left < 80
    assert left + wide <= 128, "the surroundings of a mistake are cut off at the edge of the photo"
    assert (top, high) == (0, 64)
    confusion = read_image(page / "mistakes" / "confusion-1.jpg")
    part = read_image(data[1] / "a two.jpg")[top : top + high, left : left + wide]
    assert confusion.shape == part.shape
    assert np.abs(confusion.astype(int) - part).mean() < 8


def test_mistakes_and_photos_are_limited(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation_pages.draw", lambda *_, **__: None)
    command = ("evaluate", "detector", *data, *DETECTOR, "-o", tmp_path / "page", "--limit", 1)
    run(*command)
    run(*command, "--mistakes", 0, "--overwrite")
    assert not list((tmp_path / "page" / "mistakes").iterdir())
    assert json.loads((tmp_path / "page" / "figures.json").read_text())["photos"] == 1


def test_what_cannot_run_says_so_before_the_evaluation(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(*arguments: object) -> str:
        return run("evaluate", "detector", *arguments, *DETECTOR, status=2).stderr

    full, page = tmp_path / "full", tmp_path / "page"
    full.mkdir()
    (full / "mine.txt").touch()
    exists = f"outfinder: {full} exists; give --overwrite to replace it, or choose another name\n"
    assert message(*data, "-o", full) == exists
    assert "files that outfinder did not write" in message(*data, "-o", full, "--overwrite")
    (tmp_path / "none.json").write_text("{}")
    for _ in range(2):  # a run that fails does not prevent the next one
        assert "is not a COCO instances file" in message(tmp_path / "none.json", data[1], "-o", page)
    assert "the folder that its file names are relative to?" in message(data[0], full)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = "outfinder: drawing curves needs matplotlib; install it with: pip install 'outfinder[train]'\n"
    assert message(*data, "-o", page) == missing
    run("evaluate", "detector", *data, *DETECTOR, status=1)


def test_the_size_of_shipped_weights_is_known(tmp_path: Path) -> None:
    shipped = describe_detector(Config(), str(tmp_path / "truth.json"), tmp_path)
    assert shipped["weights_bytes"] is not None
    assert shipped["parameters"] == pytest.approx(6.5e6, rel=0.05)
    assert describe_detector(Config(detector="whole"), tmp_path, tmp_path)["parameters"] is None


def test_the_threshold_is_min_score(data: tuple[Path, Path]) -> None:
    every, none = (figures_of(data, "--min-score", score) for score in (0.1, 1))
    assert (every["threshold"], every["missed"], every["false_alarms"]) == (0.1, 2, 1)
    assert (none["threshold"], none["missed"], none["false_alarms"]) == (1, 3, 0)
    assert every["box"] == none["box"]
