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

from pipeline.config import Config
from pipeline.evaluation import describe_detector
from stages.images import read_image

HOSTILE = "<b>&'\".jpg"


def garment(number: int, image: int, category: int, x: int, y: int, wide: int, high: int) -> dict[str, Any]:
    outline = [[x, y, x + wide, y, x + wide, y + high, x, y + high]]
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0,
        "bbox": [x, y, wide, high], "area": wide * high, "segmentation": outline,
    }  # fmt: skip


@pytest.fixture
def truth(street: Path) -> Path:
    """A dress that is found, a top that is called a dress, one that is not found, and a photo that is not there."""
    (street / "b none.jpg").rename(street / HOSTILE)
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
    path = street.parent / "truth.json"
    path.write_text(json.dumps(dataset))
    return path


def test_the_table_is_for_people_and_bad_photos_have_their_line(truth: Path, street: Path) -> None:
    result = run("evaluate", "detector", truth, street, *DETECTOR, status=1)
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert rows["dress"] == ["1", "1.000", "1.000", "1", "0", "1", *rows["dress"][-1:]]
    assert rows["top"] == ["2", "0.000", "0.000", "0", "2", "0", "–"]
    assert rows["all"] == ["3", "0.500", "0.500", "1", "2", "1"]
    assert rows["box"][1] == "0.500"
    assert "s per photo" in result.stdout
    assert "gone.jpg: was not found" in result.stderr
    assert "evaluated 3 photos, 1 failed" in result.stderr
    assert "category 3 (person) is not one of the labels" in result.stderr


def test_a_long_run_tells_the_time_left(truth: Path, street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.progress.INTERVAL_S", -1.0)
    said = run("evaluate", "detector", truth, street, *DETECTOR, status=1).stderr
    assert "evaluated 1 of 3 photos" in said
    assert " left" in said


def test_json_on_standard_output_or_in_a_file(truth: Path, street: Path, tmp_path: Path) -> None:
    out = json.loads(run("evaluate", "detector", truth, street, *DETECTOR, "--json", "-", status=1).stdout)
    assert list(out)[:3] == ["detector", "detector_weights", "device"]
    assert (out["detector"], out["weights_bytes"]) == (DETECTOR[1], None)
    assert (out["photos"], out["garments"], out["missed"], out["false_alarms"]) == (2, 3, 2, 1)
    assert list(out["box"]) == list(out["mask"]) == ["ap", "ap50", "ap75", "recall"]
    assert out["box"]["ap50"] == out["mask"]["ap50"] == 0.5
    assert out["labels"]["top"]["box"] == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, "recall": 0.0}
    assert out["threshold"] == Config().min_score
    assert out["failed"] == {"gone.jpg": "was not found"}
    assert 0 <= out["latency"]["median_s"] <= out["latency"]["p95_s"]
    again = run("evaluate", "detector", truth, street, *DETECTOR, "--json", tmp_path / "f.json", status=1)
    assert "s per photo" in again.stdout
    written = json.loads((tmp_path / "f.json").read_text())
    assert written | {"latency": 0} == out | {"latency": 0}


def test_the_page_shows_figures_curves_and_mistakes(truth: Path, street: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    run("evaluate", "detector", truth, street, *DETECTOR, "-o", page, status=1)
    html = (page / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|@import|url\(", html)
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', html)
    assert sorted(pictures) == ["curves-dark.png", "curves.png", "mistakes/confusion-1.jpg", "mistakes/miss-1.jpg"]
    assert all(read_image(page / name).size for name in pictures)
    assert "annotated as top" in html
    assert "nothing similar nearby" in html
    assert "&lt;b&gt;&amp;&#39;&#34;.jpg" in html
    assert "<b>" not in html
    assert "gone.jpg was not found" in html
    figures = json.loads((page / "figures.json").read_text())
    assert (figures["photos"], figures["labels"]["dress"]["box"]["ap50"]) == (2, 1.0)
    curve = json.loads((page / "curves.json").read_text())["dress"]["box"]
    assert (len(curve["recall"]), curve["precision"][-1]) == (101, 1.0)
    assert not list(page.rglob("*.part"))
    left, top, wide, high = map(int, re.findall(r'viewBox="(\d+) (\d+) (\d+) (\d+)"', html)[0])
    assert 0 <= left < 80
    assert left + wide <= 128, "the surroundings of a mistake are cut off at the edge of the photo"
    assert (top, high) == (0, 64)
    confusion = read_image(page / "mistakes" / "confusion-1.jpg")
    assert confusion.shape == (high, wide, 3)
    cut = read_image(street / "a two.jpg")[top : top + high, left : left + wide]
    assert np.abs(confusion.astype(int) - cut).mean() < 8


def test_so_many_mistakes_and_photos(
    truth: Path, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation_pages.draw", lambda *_, **__: None)
    command = ("evaluate", "detector", truth, street, *DETECTOR, "-o", tmp_path / "page", "--limit", 1)
    run(*command)
    run(*command, "--mistakes", 0, "--overwrite")
    assert not list((tmp_path / "page" / "mistakes").iterdir())
    assert json.loads((tmp_path / "page" / "figures.json").read_text())["photos"] == 1


def test_what_cannot_run_says_so_before_anything_is_judged(
    truth: Path, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    told = run("evaluate", "detector", truth, street, *DETECTOR, "-o", tmp_path / "full", status=2).stderr
    assert told == f"outfinder: {tmp_path / 'full'} exists; give --overwrite to replace it, or choose another name\n"
    told = run(
        "evaluate", "detector", truth, street, *DETECTOR, "-o", tmp_path / "full", "--overwrite", status=2
    ).stderr
    assert "files that outfinder did not write" in told
    (tmp_path / "none.json").write_text("{}")
    for _ in range(2):  # a run that fails leaves nothing in the way of the next
        command = ("evaluate", "detector", tmp_path / "none.json", street, *DETECTOR, "-o", tmp_path / "page")
        assert "is not a COCO instances file" in run(*command, status=2).stderr
    told = run("evaluate", "detector", truth, tmp_path / "full", *DETECTOR, status=2).stderr
    assert "the folder that its file names are relative to?" in told
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = run("evaluate", "detector", truth, street, *DETECTOR, "-o", tmp_path / "page", status=2).stderr
    assert told == "outfinder: drawing curves needs matplotlib; install it with: pip install 'outfinder[train]'\n"
    run("evaluate", "detector", truth, street, *DETECTOR, status=1)


def test_the_size_of_shipped_weights_is_known(tmp_path: Path) -> None:
    shipped = describe_detector(Config(), tmp_path / "truth.json", tmp_path)
    assert shipped["weights_bytes"] is not None
    assert shipped["parameters"] == pytest.approx(6.5e6, rel=0.05)
    assert describe_detector(Config(detector="whole"), tmp_path, tmp_path)["parameters"] is None


def test_the_threshold_is_min_score(truth: Path, street: Path) -> None:
    def judged(score: float) -> dict[str, Any]:
        command = ("evaluate", "detector", truth, street, *DETECTOR, "--json", "-", "--min-score", score)
        found: dict[str, Any] = json.loads(run(*command, status=1).stdout)
        return found

    every, none = judged(0.1), judged(1)
    assert (every["threshold"], every["missed"], every["false_alarms"]) == (0.1, 2, 1)
    assert (none["threshold"], none["missed"], none["false_alarms"]) == (1, 3, 0)
    assert every["box"] == none["box"]
