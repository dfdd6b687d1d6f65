"""Stages by their names, the device, and the batch size."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import EMBEDDER, run
from conftest import draw

from pipeline.config import (
    CROPPERS,
    DETECTORS,
    INDEXES,
    Config,
    build_cropper,
    build_detector,
    build_embedder,
    build_index,
    resolve_device,
)
from pipeline.demo import FOLDER
from pipeline.pipeline import Pipeline
from stages.crop import MaskCrop
from stages.errors import StageError
from stages.images import read_photo, walk, write_jpeg
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
    with pytest.raises(ValueError, match="nothing to average"):
        build_detector(Config(detector="whole+flip"))


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
import ctypes, sys
from pipeline.config import Config, build_detector, build_embedder
from pipeline.pipeline import Pipeline
from stages.crop import BoxCrop
from stages.images import walk

config = Config(detector="whole", embedder="siamese", device="cpu")
pipeline = Pipeline(build_detector(config), BoxCrop(), build_embedder(config))
assert all(analysis.detections for analysis in pipeline(walk([sys.argv[1]])))
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_info is glibc's")
def test_all_threads_of_a_pipeline_share_one_heap(tmp_path: Path, shop: Path) -> None:
    heaps = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", ONE_HEAP, shop, heaps], check=True)
    assert heaps.read_text().count("<heap nr=") == 1


@pytest.mark.parametrize(("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_the_fastest_device_available(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str
) -> None:
    with pytest.raises(ValueError, match="cpu always can"):
        resolve_device("abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert resolve_device("auto") == device
    assert resolve_device("cpu") == "cpu"


class Counting(FakeDetector):
    """Records the sizes of batches."""

    sizes: list[int] = []  # noqa: RUF012  of the class, because each command makes a new detector

    def __call__(self, images):
        self.sizes.append(len(images))
        return super().__call__(images)


@pytest.mark.parametrize(("given", "sizes"), [((), [8, 2]), (("--batch-size", 4, "--workers", 1), [4, 4, 2])])
def test_batch_size_is_that_of_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[object, ...], sizes: list[int]
) -> None:
    monkeypatch.setattr(Counting, "sizes", [])
    for number in range(10):
        write_jpeg(tmp_path / f"{number}.jpg", draw("red"))
    detector = ("--detector", f"{__name__}:Counting")
    run("detect", tmp_path, *detector, *given)
    run("index", tmp_path / "gallery", tmp_path, *detector, *EMBEDDER, *given)
    run("search", tmp_path / "gallery", *sorted(tmp_path.glob("*.jpg")), *detector, *given)
    assert Counting.sizes == 3 * sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_what_the_cpu_finds() -> None:
    photos = list(walk([FOLDER / "street"]))[:3]
    images = [read_photo(path).image for path in photos]
    on_cpu, on_cuda = (build_embedder(Config(device=device))(images) for device in ("cpu", "cuda"))
    assert np.sum(on_cpu * on_cuda, axis=1) == pytest.approx(1, abs=1e-3)
    cpu, cuda = (
        list(Pipeline(build_detector(Config(device=device, min_score=0.3)))(photos)) for device in ("cpu", "cuda")
    )
    agree = [
        any(detection.label == other.label and detection.box.iou(other.box) > 0.9 for other in on_cuda.detections)
        for on_cpu, on_cuda in zip(cpu, cuda, strict=True)
        for detection in on_cpu.detections
        if detection.score > 0.6
    ]
    assert np.mean(agree or [0]) >= 0.95
