"""Indexing on a local Ray cluster: the same as by itself, also when a worker dies in the middle."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from cli_runs import DETECTOR, EMBEDDER, run
from conftest import draw

from pipeline import ray as cluster
from pipeline.catalogue import Indexing, read_catalogue
from pipeline.config import Config, build_cropper, build_detector, build_embedder
from pipeline.gallery import Gallery, writing
from pipeline.pipeline import Pipeline
from pipeline.ray import ClusterPipeline
from stages.errors import StageError
from stages.images import write_jpeg

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'outfinder[ray]'"
)
ours = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")

MORTAL = """
import os, signal
from pathlib import Path
from stages.testing import FakeDetector

class Mortal(FakeDetector):
    \"\"\"Kills the first process that comes to the photo of one colour, in the middle of a task.\"\"\"

    def __call__(self, images):
        note = Path({note!r})
        if not note.exists() and any((image[image.shape[0] // 2, image.shape[1] // 2] < 60).all() for image in images):
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images)
"""


def config_with(detector: str) -> Config:
    return Config(detector=detector, embedder="stages.testing:FakeEmbedder")


def many_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        color = "black" if number == count - 5 else ("red", "green", "blue")[number % 3]
        write_jpeg(folder / f"{number:03}.jpg", draw(color, side=24 + number % 16))
    (folder / "010.jpg").write_bytes(b"no photo")
    return folder


def indexed(folder: Path, photos: Path, config: Config, pipeline: object) -> Gallery:
    embedder, cropper = build_embedder(config), build_cropper(config)
    gallery = Gallery.create(folder, embedder, cropper)
    with writing(folder):
        tally = Indexing(gallery, pipeline, "fake")(read_catalogue([photos]))
    assert [Path(name).name for name, _ in tally.failed] == ["010.jpg"]
    return Gallery.open(folder)


@pytest.mark.slow
@needs_ray
@ours
def test_a_cluster_finds_the_same_and_loses_nothing_with_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "JOB", 3 * cluster.TASK)  # two jobs
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mortal.py").write_text(MORTAL.format(note=str(tmp_path / "died")))
    photos = many_photos(tmp_path / "photos", 70)
    alone = config_with("stages.testing:FakeDetector")
    stages = build_detector(alone), build_cropper(alone), build_embedder(alone)
    wanted = indexed(tmp_path / "alone", photos, alone, Pipeline(*stages, main_garment=True))
    build_detector(config_with("mortal:Mortal"))  # here it can be imported; does a worker find it too?
    got = indexed(tmp_path / "cluster", photos, alone, ClusterPipeline(config_with("mortal:Mortal"), workers=2))
    assert (tmp_path / "died").exists()
    assert got.rows == wanted.rows
    np.testing.assert_array_equal(got.vectors.take(got.ids), wanted.vectors.take(wanted.ids))


@pytest.mark.slow
@needs_ray
@ours
def test_the_command_runs_on_a_cluster(tmp_path: Path, shop: Path) -> None:
    (shop / "zero.jpg").write_bytes(b"")
    run("index", tmp_path / "alone", shop, *DETECTOR, *EMBEDDER, status=1)
    told = run("index", tmp_path / "cluster", shop, *DETECTOR, *EMBEDDER, "--engine", "ray", status=1)
    assert "zero.jpg: is empty" in told.stderr
    assert "5 added" in told.stderr
    ours, wanted = Gallery.open(tmp_path / "cluster"), Gallery.open(tmp_path / "alone")
    assert ours.rows == wanted.rows
    np.testing.assert_array_equal(ours.vectors.take(ours.ids), wanted.vectors.take(wanted.ids))


def test_an_address_goes_with_the_engine(tmp_path: Path, shop: Path) -> None:
    assert "--engine ray" in run("index", tmp_path / "g", shop, "--ray-address", "auto", status=2).stderr


@pytest.mark.slow
@needs_ray
@ours
def test_a_worker_that_cannot_be_built_ends_the_run(tmp_path: Path) -> None:
    photos = many_photos(tmp_path / "photos", 11)
    broken = ClusterPipeline(config_with("stages.testing:Absent"), workers=1)
    with pytest.raises(StageError, match="Absent cannot be built"):
        list(broken(sorted(photos.iterdir())))


@needs_ray
@ours
def test_a_cluster_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002  as Ray does

    monkeypatch.setattr(importlib.import_module("ray"), "init", give_up)
    with pytest.raises(StageError, match="no Ray cluster answers at this machine: The current node timed out"):
        list(ClusterPipeline(Config())(["a.jpg"]))


@needs_ray
@ours
def test_nothing_to_do_starts_nothing() -> None:
    assert list(ClusterPipeline(Config(), "nowhere:1")([])) == []


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(StageError, match=r"pip install 'outfinder\[ray\]'"):
        ClusterPipeline(Config())
