"""The device, the batch size, and equal results on CPU and GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import run
from conftest import draw

from pipeline.config import Config, build_detector, build_embedder, resolve_device
from pipeline.demo import FOLDER
from pipeline.pipeline import Pipeline
from stages.images import read_photo, walk, write_jpeg
from stages.testing import FakeDetector


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_fastest_device_available(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert resolve_device("auto") == device
    assert resolve_device("cpu") == "cpu"


def test_an_unavailable_device_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu always can"):
        resolve_device("abacus")


class Counting(FakeDetector):
    """Records the sizes of batches."""

    sizes: list[int] = []  # noqa: RUF012  of the class: the command makes its own

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
    stages = ("--detector", f"{__name__}:Counting", "--embedder", "stages.testing:FakeEmbedder")
    run("detect", tmp_path, *stages[:2], *given)
    assert Counting.sizes == sizes
    run("index", tmp_path / "gallery", tmp_path, *stages, *given)
    assert Counting.sizes == 2 * sizes
    run("search", tmp_path / "gallery", *sorted(tmp_path.glob("*.jpg")), *stages[:2], *given)
    assert Counting.sizes == 3 * sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_what_the_cpu_finds() -> None:
    photos = list(walk([FOLDER / "street"]))[:3]
    images = [read_photo(path).image for path in photos]
    on_cpu, on_cuda = (build_embedder(Config(device=device))(images) for device in ("cpu", "cuda"))
    assert np.sum(on_cpu * on_cuda, axis=1) == pytest.approx(1, abs=1e-3)
    one, other = (
        list(Pipeline(build_detector(Config(device=device, min_score=0.3)))(photos)) for device in ("cpu", "cuda")
    )
    agree = [
        any(found.label == same.label and found.box.iou(same.box) > 0.9 for same in there.detections)
        for here, there in zip(one, other, strict=True)
        for found in here.detections
        if found.score > 0.6
    ]
    assert agree
    assert np.mean(agree) >= 0.95
