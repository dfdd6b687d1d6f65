"""Interrupted runs of ``detect`` and ``search`` are resumed, with the outputs of an uninterrupted run."""

from pathlib import Path

import numpy as np
import pytest
from cli_runs import DETECTOR, EMBEDDER, run
from conftest import draw

from pipeline.cli.progress import Progress
from stages.images import write_jpeg


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos with two garments, one and none, one that cannot be read, and names that a table must quote."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b, größe", 'c "x"\nd', "f"):
        write_jpeg(folder / f"{name}.jpg", draw("red", "blue"))
    write_jpeg(folder / "e.jpg", np.full((40, 40, 3), 255, np.uint8))
    write_jpeg(folder / "g.jpg", draw("green"))
    (folder / "d.jpg").write_bytes(b"")
    return folder


def test_detect_and_search_are_resumed(tmp_path: Path, photos: Path, shop: Path) -> None:
    run("index", tmp_path / "gallery", shop, *DETECTOR, *EMBEDDER)
    for number, command in enumerate(
        (("detect", photos, "--crops", tmp_path / "crops"), ("search", tmp_path / "gallery", photos))
    ):
        stages = DETECTOR if number == 0 else (*DETECTOR, *EMBEDDER)
        file = tmp_path / f"{number}{('.csv', '.jsonl')[number]}"
        run(*command, *stages, "-o", file, status=1)
        whole = file.read_bytes()
        crops = sorted(path.name for path in tmp_path.glob("crops/*"))
        file.write_bytes(whole[: len(whole) * 2 // 3])
        for _ in range(2):  # the second time all is there
            said = run(*command, *stages, "-o", file, "--resume", status=1).stderr
            assert "7 photos, 1 failed" in said
            assert file.read_bytes() == whole
        assert sorted(path.name for path in tmp_path.glob("crops/*")) == crops


def test_outputs_that_cannot_be_resumed_are_refused(tmp_path: Path, photos: Path, shop: Path) -> None:
    assert "name it with -o" in run("detect", photos, *DETECTOR, "--resume", status=2).stderr
    command = ("search", shop, photos, "--resume", "-o", tmp_path / "a.jsonl", "--report", tmp_path / "report")
    assert "--report" in run(*command, status=2).stderr


def test_progress_prints_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.cli.progress.monotonic", lambda: now)
    progress = Progress("saw", 100, done=20)
    for _ in range(30):
        now += 0.5
        progress.count()
    progress.finish()
    told = capsys.readouterr().err.splitlines()
    assert told == ["saw 41 of 100 photos, 2.0/s, 0:00:30 left", "saw 50 photos, 2.0/s"]
