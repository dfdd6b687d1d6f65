import platform
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import few_scenes

from pipeline.config import (
    CROPPERS,
    DETECTORS,
    INDEXES,
    Config,
    build_cropper,
    build_detector,
    build_embedder,
    build_index,
)
from stages.crop import MaskCrop
from stages.errors import StageError
from stages.testing import FakeDetector, check_cropper, check_detector

MINE = """
from stages.types import Box, Detection

class Middle:
    labels = ("top",)
    input_px = 64

    def __call__(self, images):
        return [[Detection("top", 0.5, Box(0, 0, *image.shape[1::-1]))] for image in images]

class NoDetector:
    pass

def broken():
    raise RuntimeError("no GPU in this house")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def test_every_name_of_a_stage_builds_one_that_keeps_its_protocol() -> None:
    for name in CROPPERS:
        check_cropper(build_cropper(Config(crop=name)))
    assert build_cropper(Config(crop="mask")) == MaskCrop("white")
    for name in INDEXES:
        assert build_index(name, 7).dim == 7
    check_detector(build_detector(Config(detector="whole")))


def test_a_users_stage_is_imported_from_the_current_folder_or_a_package(mine: None) -> None:
    check_detector(build_detector(Config(detector="mine:Middle")))
    assert isinstance(build_detector(Config(detector="stages.testing:FakeDetector")), FakeDetector)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mine:NoDetector", "lacks __call__, input_px, labels"),
        ("mine:broken", "no GPU in this house"),
        ("mine:Absent", "Absent"),
        ("nowhere:Detector", "nowhere"),
    ],
)
def test_a_stage_that_cannot_be_built_says_why(mine: None, name: str, says: str) -> None:
    with pytest.raises(StageError, match=says):
        build_detector(Config(detector=name))


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"no detector is called 'yolo'; there are maskrcnn_mobilenet_v2"):
        build_detector(Config(detector="yolo"))
    with pytest.raises(ValueError, match="no crop"):
        build_cropper(Config(crop="circle"))
    with pytest.raises(ValueError, match="no embedder"):
        build_embedder(Config(embedder="clip"))
    with pytest.raises(ValueError, match="no index"):
        build_index("tree", 3)
    assert len(DETECTORS) == 12


ONE_HEAP = """
import ctypes, io, sys
import numpy as np
from pipeline.config import Config, build_detector, build_embedder
from pipeline.pipeline import Pipeline
from stages.crop import BoxCrop
from stages.images import walk

config = Config(detector="fasterrcnn_mobilenet_v2", device="cpu")
pipeline = Pipeline(build_detector(config), BoxCrop(), build_embedder(config))
assert any(analysis.detections for analysis in pipeline(walk([sys.argv[1]])))
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
told = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_info is glibc's")
def test_all_threads_that_look_at_photos_share_one_heap(tmp_path: Path) -> None:
    heaps = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", ONE_HEAP, few_scenes(tmp_path / "few", 3) / "street", heaps], check=True)
    assert heaps.read_text().count("<heap nr=") == 1
