"""Files from elsewhere: nothing that they name is run, followed or waited for, and nobody is asked on the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw, few_scenes
from safetensors.torch import save_file

import weights
from pipeline import open_gallery
from pipeline.gallery import Gallery
from stages.crop import BoxCrop
from stages.detect.rcnn import read_detector
from stages.embed.features import FeaturesEmbedder
from stages.embed.foundation import FoundationEmbedder
from stages.embed.siamese import SiameseEmbedder
from stages.errors import StageError, WeightsError
from stages.files import replacing, write_whole
from stages.images import write_jpeg
from stages.testing import FakeEmbedder

ROOT = Path(__file__).parents[2]
DETECTOR = ("--detector", "stages.testing:FakeDetector")
EMBEDDER = ("--embedder", "stages.testing:FakeEmbedder")


def outfinder(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as it is installed, with another project's modules in the current folder."""
    code = "import sys; sys.path[0] = sys.argv.pop(1); import outfinder; outfinder.main()"
    command = [sys.executable, "-c", code, ROOT, *arguments]
    return subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False, timeout=600,
        env=os.environ | {"PYTHONPATH": ""} | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["open_clip:hf-hub:evil/model", "open_clip:RN50//etc/passwd", "timm:resnet50+attributes"]
)
def test_no_model_is_downloaded_or_read_because_a_gallery_names_it(tmp_path: Path, name: str) -> None:
    Gallery.create(tmp_path, FakeEmbedder(), BoxCrop(), settings={"embedder": name}).close()
    with pytest.raises(StageError, match="a model that may be downloaded; if you trust it, name it yourself"):
        open_gallery(tmp_path)


@pytest.mark.parametrize("command", ["search", "index"])
def test_nothing_that_a_gallery_names_is_imported(tmp_path: Path, command: str) -> None:
    """Whatever lies beside it: modules with the names of those that the command imports itself."""
    settings = {"crop": "stages.testing:FakeCropper", "embedder": "evil:Evil", "detector": "whole"}
    Gallery.create(tmp_path / "gallery", FakeEmbedder(), BoxCrop(), settings=settings).close()
    for name in ("torchvision", "torch", "numpy", "stages", "hnswlib", "evil"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("open('ran', 'w').close()")
    write_jpeg(tmp_path / "a.jpg", draw("red"))
    done = outfinder(tmp_path, command, "gallery", "a.jpg")
    assert done.returncode == 2, done.stderr
    assert "'stages.testing:FakeCropper', which is code and not data" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_stage_of_ones_own_comes_after_all_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "safetensors.py").write_text("open('ran', 'w').close()")
    (tmp_path / "mine.py").write_text("from stages.testing import FakeDetector as Mine\nimport safetensors")
    write_jpeg(tmp_path / "a.jpg", draw("red"))
    done = outfinder(tmp_path, "detect", "a.jpg", "--detector", "mine:Mine")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_catalogue_may_name_anything_and_only_photos_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    write_jpeg(tmp_path / "a.jpg", draw("red"))
    bad = ["/proc/kmsg", "/proc/self/mem", "/proc/self/environ", "/proc/self/fd/0", "/dev/zero", "/dev/stdin", "/dev/tty",
           "pipe.jpg", "link.jpg", "loop.jpg", ".", "/etc/passwd", "file:///etc/passwd", "ftp://localhost:1/a.jpg"]  # fmt: skip
    lines = ["item_id,image", *(f"{number},{name}" for number, name in enumerate([*bad, "a.jpg"]))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    done = outfinder(tmp_path, "index", "gallery", "list.csv", *DETECTOR, *EMBEDDER)
    assert done.returncode == 1, done.stderr
    assert f"{len(bad)} failed" in done.stderr.splitlines()[-1], done.stderr
    assert "root:" not in done.stderr
    assert [row.item for row in Gallery.open(tmp_path / "gallery").rows] == [str(len(bad))]


def test_a_link_with_the_name_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with replacing(tmp_path / "a.json") as part:
        part.touch()
        name = part.name
    (tmp_path / name).symlink_to(victim)
    write_whole(tmp_path / "a.json", "{}")
    assert (victim.read_text(), (tmp_path / "a.json").read_text()) == ("precious", "{}")
    assert not (tmp_path / "a.json").is_symlink()


@pytest.mark.parametrize("harm", [lambda value: value * 1e4, lambda value: value * 1e30])
def test_weights_that_overflow_are_refused_at_the_first_result(
    tmp_path: Path, harm: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    shipped = weights.load("siamese")
    tensors = {name: harm(value) if value.is_floating_point() else value for name, value in shipped.tensors.items()}
    save_file(tensors, tmp_path / "w.safetensors", metadata=shipped.metadata)
    embedder = SiameseEmbedder(weights.read(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match="not finite or have no length"):
        embedder([draw("red"), draw("blue")])


def test_a_detector_that_overflows_is_refused_at_the_first_result(tmp_path: Path) -> None:
    shipped = weights.load("fasterrcnn_mobilenet_v2")
    tensors = {name: value * 1e30 if value.is_floating_point() else value for name, value in shipped.tensors.items()}
    save_file(tensors, tmp_path / "w.safetensors", metadata=shipped.metadata)
    detector = read_detector(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        detector([draw("red")])


def test_a_foundation_model_that_overflows_is_refused_at_the_first_result() -> None:
    embedder = FoundationEmbedder("huge", torch.nn.Flatten(), lambda _: torch.full((3, 8, 8), torch.nan), "cpu")
    with pytest.raises(WeightsError, match="not finite or have no length"):
        embedder([draw("red")])


def test_a_classifier_that_overflows_is_refused_at_the_first_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeaturesEmbedder, "_run", lambda _, batch: np.full((len(batch), 4), np.nan, np.float32))
    monkeypatch.setattr("stages.embed.features.classifier_features", lambda *_: torch.nn.Linear(1, 1))
    with pytest.raises(WeightsError, match="not finite or have no length"):
        FeaturesEmbedder()([draw("red")])


ALONE = """
import socket
def refuse(*arguments, **_options):
    open("asked", "a").write(f"{arguments}\\n")
    raise OSError("there is no network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.mark.slow
def test_the_shipped_weights_need_no_network(tmp_path: Path) -> None:
    few = few_scenes(tmp_path / "few", 2)
    (tmp_path / "sitecustomize.py").write_text(ALONE)
    alone = {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    done = outfinder(tmp_path, "index", "gallery", few / "street", **alone)
    assert done.returncode == 0, done.stderr
    done = outfinder(tmp_path, "search", "gallery", few / "street", "--report", "report", **alone)
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["garments"] for line in done.stdout.splitlines())
    assert not (tmp_path / "asked").exists()
