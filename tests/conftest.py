"""Pictures and stages for the tests: small, made on the fly, without a network or a download."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from milvus_server import Server

from pipeline.demo import FOLDER
from stages.images import write_jpeg
from stages.types import Image

settings.register_profile("anywhere", deadline=None)  # a busy machine is no fault
settings.load_profile("anywhere")

COLORS = {"red": (200, 30, 30), "green": (20, 150, 40), "blue": (30, 40, 190), "black": (20, 20, 20)}


def draw(*colors: str, side: int = 64) -> Image:
    """Blocks of colour side by side on white: what FakeDetector finds."""
    image = np.full((side, side * len(colors), 3), 255, np.uint8)
    for place, color in enumerate(colors):
        left = place * side
        image[side // 8 : -side // 8, left + side // 4 : left + 3 * side // 4] = COLORS[color]
    return image


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A catalogue folder: one photo per colour, and two of red in a sub-folder."""
    folder = tmp_path / "catalogue"
    (folder / "red").mkdir(parents=True)
    for color in ("green", "blue", "black"):
        write_jpeg(folder / f"{color}.jpg", draw(color))
    write_jpeg(folder / "red" / "front.jpg", draw("red"))
    write_jpeg(folder / "red" / "back.jpg", draw("red", side=80))
    return folder


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Query photos: one with two garments, one with none."""
    folder = tmp_path / "street"
    folder.mkdir()
    write_jpeg(folder / "a two.jpg", draw("red", "blue"))
    write_jpeg(folder / "b none.jpg", np.full((40, 40, 3), 255, np.uint8))
    return folder


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Milvus server of the test run; a test that kills it starts it again."""
    server = Server(tmp_path_factory.mktemp("milvus-server"))
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _trusted_fakes() -> None:
    """Let galleries name the fake stages, which no test would want to name again and again."""
    from pipeline.config import trust

    for name in ("FakeDetector", "FakeEmbedder"):
        trust(f"stages.testing:{name}")


def few_scenes(folder: Path, count: int) -> Path:
    """Copy the first scenes of the packaged street and their annotations into a folder, and the list of the shop."""
    coco = json.loads((FOLDER / "street.json").read_text())
    coco["images"] = coco["images"][:count]
    kept = {image["id"]: image["file_name"] for image in coco["images"]}
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] in kept]
    (folder / "street").mkdir(parents=True)
    (folder / "street.json").write_text(json.dumps(coco))
    for name in kept.values():
        shutil.copy(FOLDER / "street" / name, folder / "street")
    shutil.copy(FOLDER / "shop.csv", folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of the tests' galleries stay out of the user's cache folder."""
    monkeypatch.setenv("OUTFINDER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


TRIED = pytest.StashKey[Counter[str]]()


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Count what an attack has tried, such as kills; ``make hostile`` prints the figures."""
    figures = request.config.stash.setdefault(TRIED, Counter())

    def count(what: str, number: int = 1) -> None:
        figures[what] += number

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the attacks have tried."""
    if figures := terminalreporter.config.stash.get(TRIED, Counter[str]()):
        terminalreporter.section("tried")
        for what, number in figures.items():
            terminalreporter.line(f"{number:>8,} {what}")
