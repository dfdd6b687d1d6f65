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
from stages.images import read_photo, walk, write_jpeg
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import WHOLE, Box, Detection, Image, Vectors


class SmallDetector(FakeDetector):
    """Resizes photos to 64 pixels."""

    input_px = 64


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


@pytest.mark.parametrize("batch_size", [1, 2, 4, 50])
def test_results_come_in_order_whatever_the_batch(photos: list[Path], batch_size: int) -> None:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), batch_size=batch_size)
    analyses = list(pipeline(photos))
    assert [one.path for one in analyses] == photos
    assert [len(one.detections) for one in analyses] == [1, 2, 0, 0, 1, 3]
    assert [one.error is not None for one in analyses] == [False, False, True, False, False, False]
    for one in analyses:
        assert len(one.crops) == len(one.vectors) == len(one.detections)
        alone = FakeEmbedder()([crop.image for crop in one.crops])
        np.testing.assert_array_equal(one.vectors.reshape(-1, 49), alone)


def test_photos_are_decoded_lazily(photos: list[Path]) -> None:
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


def test_no_photos_give_no_analyses() -> None:
    assert list(Pipeline(FakeDetector())([])) == []


@pytest.mark.parametrize("cropper", [BoxCrop(), MaskCrop()])
def test_a_large_jpeg_is_detected_at_reduced_size_and_cropped_at_full_resolution(
    tmp_path: Path, cropper: BoxCrop | MaskCrop
) -> None:
    image = np.full((1024, 768, 3), 255, np.uint8)
    image[400:480, 96:160] = (200, 30, 30)
    path = tmp_path / "large.jpg"
    write_jpeg(path, image)
    embedder = FakeEmbedder()
    embedder.input_px = 48
    (small,) = Pipeline(SmallDetector(), cropper, embedder)([path])
    assert small.photo is not None
    assert small.photo.image.shape[0] < 200
    (detection,), (crop,) = small.detections, small.crops
    assert (small.photo.width, small.photo.height) == (768, 1024)
    assert max(np.abs(np.subtract(detection.box.corners, (96, 400, 160, 480)))) <= 8
    assert max(crop.image.shape) >= 48, "cut from a larger decoding"
    assert crop.box.width >= detection.box.width
    assert detection.mask is not None
    assert detection.mask.mean() > 0.7


def test_a_whole_photo_is_decoded_at_twice_the_input_of_the_embedder(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "shop.jpg", np.full((1024, 768, 3), 255, np.uint8))
    embedder = FakeEmbedder()
    embedder.input_px = 128
    (analysis,) = Pipeline(WholeDetector(), BoxCrop(), embedder)([tmp_path / "shop.jpg"])
    assert analysis.photo is not None
    assert analysis.photo.image.shape[0] == 256


def test_a_catalogue_photo_has_one_detection_its_main_garment_or_the_whole_photo(photos: list[Path]) -> None:
    analyses = [one for one in Pipeline(FakeDetector(), main_garment=True)(photos) if not one.error]
    assert [len(one.detections) for one in analyses] == [1] * 5
    assert analyses[2].detections[0].label == WHOLE
    photo = read_photo(photos[0])
    assert main_garment([], photo.image).box.corners == (0, 0, photo.width, photo.height)
    small, large = Detection("shoes", 1.0, Box(0, 0, 12, 12)), Detection("shorts", 0.7, Box(0, 0, 16, 16))
    assert main_garment([small], photo.image).label == WHOLE, "144 of 4096 pixels: not what the photo sells"
    assert main_garment([small, large], photo.image) is large


def test_closing_early_stops_the_workers(photos: list[Path]) -> None:
    stream = Pipeline(WholeDetector())(walk([photos[0].parent]))
    next(stream)
    stream.close()


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
    """Each waits for the other: neither could go on if one had to end before the other starts."""
    meeting, met = threading.Barrier(2, timeout=10), []

    class Detecting(FakeDetector):
        def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
            if met:  # the first batch has no one to meet
                meeting.wait()
            met.append("detector")
            return super().__call__(images)

    class Embedding(FakeEmbedder):
        def __call__(self, images: Sequence[Image]) -> Vectors:
            if met.count("embedder") < 2:  # the last batch has no one to meet any more
                meeting.wait()
            met.append("embedder")
            return super().__call__(images)

    good = [photo for photo in photos if photo.name != "bad.jpg"][:3]
    assert len(list(Pipeline(Detecting(), BoxCrop(), Embedding(), batch_size=1)(good))) == 3
    assert met.count("detector") == met.count("embedder") == 3


def test_analyses_come_in_batches_of_the_batch_size(photos: list[Path]) -> None:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), batch_size=4)
    batches = list(pipeline.batches(photos))
    assert [len(batch) for batch in batches] == [4, 2]
    assert [one.path for batch in batches for one in batch] == photos


def test_photos_of_a_batch_are_searched_for_together(photos: list[Path], tmp_path: Path) -> None:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder())
    (batch,) = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), batch_size=9).batches(photos)
    gallery = Gallery.create(tmp_path / "gallery", FakeEmbedder(), BoxCrop())
    rows = [
        Row(str(number), f"{number}.jpg", "", BoxCrop().fingerprint, found.label, 1.0, found.box)
        for number, found in enumerate(found for one in batch for found in one.detections)
    ]
    gallery.add(rows, np.concatenate([one.vectors for one in batch if one.detections]))
    together = search_batch(gallery, batch, 2)
    assert [result.photo for result in together] == list(map(str, photos))
    assert [result.error is not None for result in together] == [one.error is not None for one in batch]
    for result, one in zip(together, pipeline(photos), strict=True):
        alone = search_batch(gallery, [one], 2)[0]
        for garment, single in zip(result.garments, alone.garments, strict=True):
            assert [match.item for match in garment.matches or ()] == [match.item for match in single.matches or ()]
        assert len(result.garments) == len(one.detections)
    same = search_batch(gallery, batch, 9, same_label=True)
    for garment in (garment for result in same for garment in result.garments):
        assert garment.matches
        assert {match.label for match in garment.matches} == {garment.label}
    assert search_batch(gallery, batch[2:4], 2)[1].garments == ()
    assert search_batch(gallery, [], 2) == []
