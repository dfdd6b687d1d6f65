"""The pipeline: batches in order, decoding ahead, crops at full resolution, main garments, and searches by batch."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import draw

from pipeline.gallery import Gallery, Row
from pipeline.pipeline import Pipeline, main_garment
from pipeline.search import search_batch
from stages.crop import BoxCrop, MaskCrop
from stages.detect import WholeDetector
from stages.images import read_photo, write_jpeg
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import WHOLE, Box, Detection, Image, Vectors


class SmallDetector(FakeDetector):
    """Resizes photos to 64 pixels."""

    input_px = 64


def sized(input_px: int) -> FakeEmbedder:
    embedder = FakeEmbedder()
    embedder.input_px = input_px
    return embedder


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = []
    for number, colors in enumerate((["red"], ["red", "blue"], [], ["green"], ["black", "red", "blue"])):
        path = tmp_path / f"{number}.jpg"
        write_jpeg(path, draw(*colors) if colors else np.full((50, 50, 3), 255, np.uint8))
        paths.append(path)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    return [*paths[:2], bad, *paths[2:]]


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 6), (4, [4, 2]), (50, [6])])
def test_results_come_in_order_in_batches_of_the_batch_size(
    photos: list[Path], batch_size: int, sizes: list[int]
) -> None:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), batch_size=batch_size)
    batches = list(pipeline.batches(photos))
    assert [len(batch) for batch in batches] == sizes
    analyses = [one for batch in batches for one in batch]
    assert [one.path for one in analyses] == photos
    assert [len(one.detections) for one in analyses] == [1, 2, 0, 0, 1, 3]
    assert [one.error is not None for one in analyses] == [False, False, True, False, False, False]
    for one in analyses:
        assert len(one.crops) == len(one.vectors) == len(one.detections)
        alone = FakeEmbedder()([crop.image for crop in one.crops])
        np.testing.assert_array_equal(one.vectors.reshape(-1, 49), alone)
    assert list(pipeline([])) == []


def test_photos_are_decoded_lazily_and_closing_early_stops_the_workers(photos: list[Path]) -> None:
    asked = []

    def endless() -> Iterator[Path]:
        while True:
            asked.append(1)
            yield photos[0]

    stream = Pipeline(FakeDetector(), batch_size=2)(endless())
    for _ in range(20):
        next(stream)
    stream.close()
    assert len(asked) < 40


@pytest.mark.parametrize("cropper", [BoxCrop(), MaskCrop()])
def test_a_large_jpeg_is_detected_at_reduced_size_and_cropped_at_full_resolution(
    tmp_path: Path, cropper: BoxCrop | MaskCrop
) -> None:
    image = np.full((1024, 768, 3), 255, np.uint8)
    image[400:480, 96:160] = (200, 30, 30)
    write_jpeg(tmp_path / "large.jpg", image)
    (small,) = Pipeline(SmallDetector(), cropper, sized(48))([tmp_path / "large.jpg"])
    assert small.photo is not None
    assert small.photo.image.shape[0] < 200
    assert (small.photo.width, small.photo.height) == (768, 1024)
    (detection,), (crop,) = small.detections, small.crops
    assert max(np.abs(np.subtract(detection.box.corners, (96, 400, 160, 480)))) <= 8
    assert max(crop.image.shape) >= 48, "cut from a larger decoding"
    assert crop.box.width >= detection.box.width
    assert detection.mask is not None
    assert detection.mask.mean() > 0.7
    (whole,) = Pipeline(WholeDetector(), BoxCrop(), sized(128))([tmp_path / "large.jpg"])
    assert whole.photo is not None
    assert whole.photo.image.shape[0] == 256, "a whole photo is decoded at twice the embedder's input"


def test_a_catalogue_photo_has_one_detection_its_main_garment_or_the_whole_photo(photos: list[Path]) -> None:
    analyses = [one for one in Pipeline(FakeDetector(), main_garment=True)(photos) if not one.error]
    assert [len(one.detections) for one in analyses] == [1] * 5
    assert analyses[2].detections[0].label == WHOLE
    photo = read_photo(photos[0])
    assert main_garment([], photo.image).box.corners == (0, 0, photo.width, photo.height)
    small, large = Detection("shoes", 1.0, Box(0, 0, 12, 12)), Detection("shorts", 0.7, Box(0, 0, 16, 16))
    assert main_garment([small], photo.image).label == WHOLE, "144 of 4096 pixels: not what the photo sells"
    assert main_garment([small, large], photo.image) is large


def test_a_detector_that_breaks_ends_the_run_with_its_own_error(photos: list[Path]) -> None:
    class Broken(FakeDetector):
        def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(Pipeline(Broken())(photos))


def test_impossible_compositions_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a cropper"):
        Pipeline(FakeDetector(), None, FakeEmbedder())
    with pytest.raises(ValueError, match="at least 1"):
        Pipeline(FakeDetector(), batch_size=0)


def test_detector_and_embedder_work_at_the_same_time(photos: list[Path]) -> None:
    """Each waits for the other: neither could finish if one had to end before the other starts."""
    barrier, calls = threading.Barrier(2, timeout=60), []

    class Detecting(FakeDetector):
        def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
            if calls:  # nothing is embedded beside the first batch
                barrier.wait()
            calls.append("detector")
            return super().__call__(images)

    class Embedding(FakeEmbedder):
        def __call__(self, images: Sequence[Image]) -> Vectors:
            if calls.count("embedder") < 2:  # nothing is detected beside the last batch
                barrier.wait()
            calls.append("embedder")
            return super().__call__(images)

    good = [photo for photo in photos if photo.name != "bad.jpg"][:3]
    assert len(list(Pipeline(Detecting(), BoxCrop(), Embedding(), batch_size=1)(good))) == 3
    assert calls.count("detector") == calls.count("embedder") == 3


def test_photos_of_a_batch_are_searched_for_together(photos: list[Path], tmp_path: Path) -> None:
    (batch,) = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), batch_size=9).batches(photos)
    gallery = Gallery.create(tmp_path / "gallery", FakeEmbedder(), BoxCrop())
    rows = [
        Row(str(number), f"{number}.jpg", "", BoxCrop().fingerprint, detection.label, 1.0, detection.box)
        for number, detection in enumerate(detection for one in batch for detection in one.detections)
    ]
    gallery.add(rows, np.concatenate([one.vectors for one in batch if one.detections]))
    together = search_batch(gallery, batch, 2)
    assert [result.photo for result in together] == list(map(str, photos))
    assert [result.error is not None for result in together] == [one.error is not None for one in batch]
    for result, one in zip(together, batch, strict=True):
        alone = search_batch(gallery, [one], 2)[0]
        assert len(result.garments) == len(alone.garments) == len(one.detections)
        for garment, single in zip(result.garments, alone.garments, strict=True):
            assert [match.item for match in garment.matches or ()] == [match.item for match in single.matches or ()]
    same = search_batch(gallery, batch, 9, same_label=True)
    for garment in (garment for result in same for garment in result.garments):
        assert garment.matches
        assert {match.label for match in garment.matches} == {garment.label}
    assert search_batch(gallery, batch[2:4], 2)[1].garments == ()
    assert search_batch(gallery, [], 2) == []
