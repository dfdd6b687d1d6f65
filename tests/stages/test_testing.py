"""The fakes pass the checks, and every rule that a check has fails for a small stage that breaks it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.protocols import Cropper, Detector, Embedder, Index
from stages.testing import (
    FakeDetector,
    FakeEmbedder,
    check_cropper,
    check_detector,
    check_embedder,
    check_index,
    example_images,
)
from stages.types import Box, Crop, Neighbors

# --- the fakes ---


class FakeCropper:
    """Cuts boxes without context."""

    fingerprint = "fake box"

    def __call__(self, images, detections):
        pairs = zip(images, detections, strict=True)
        return [[Crop(image[one.box.slices].copy(), one.box) for one in ones] for image, ones in pairs]


class FakeIndex:
    """Compares a query with every stored vector."""

    def __init__(self, dim):
        self.dim = dim
        self._stored = {}

    def __len__(self):
        return len(self._stored)

    def add(self, rows, vectors):
        self._check(vectors)
        numbers = rows.tolist()
        if len(numbers) != len(vectors) or len(set(numbers)) < len(numbers) or min(numbers, default=0) < 0:
            raise ValueError("wanted one distinct row number, at least 0, for each vector")
        if taken := self._stored.keys() & set(numbers):
            raise ValueError(f"rows {sorted(taken)} are taken; remove them first")
        self._stored.update(zip(numbers, vectors.copy(), strict=True))

    def remove(self, rows):
        numbers = rows.tolist()
        if len(set(numbers)) < len(numbers) or not self._stored.keys() >= set(numbers):
            raise ValueError(f"wanted distinct rows that are stored, got {numbers}")
        for number in numbers:
            del self._stored[number]

    def search(self, queries, k):
        self._check(queries)
        if k < 1:
            raise ValueError(f"wanted at least 1 neighbour, got k={k}")
        rows = np.full((len(queries), k), -1, np.int64)
        similarities = np.full((len(queries), k), -np.inf, np.float32)
        if self._stored:
            every = queries @ np.stack(list(self._stored.values())).T
            best = np.argsort(-every, axis=1, kind="stable")[:, :k]
            rows[:, : best.shape[1]] = np.array(list(self._stored), np.int64)[best]
            similarities[:, : best.shape[1]] = np.take_along_axis(every, best, axis=1)
        return Neighbors(rows, similarities)

    def _check(self, vectors):
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"wanted vectors of shape (n, {self.dim}), got {vectors.shape}")
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
            raise ValueError("wanted finite unit vectors; divide each by its norm")


def test_the_fakes_keep_their_protocols():
    check_detector(FakeDetector(), score_tolerance=0)
    check_cropper(FakeCropper())
    check_embedder(FakeEmbedder())
    check_index(FakeIndex, min_recall=1.0)
    check_index(FakeIndex, dim=2, size=18, k=3, min_recall=1.0)
    stages = ((FakeDetector(), Detector), (FakeCropper(), Cropper), (FakeEmbedder(), Embedder), (FakeIndex(3), Index))
    assert all(isinstance(stage, protocol) for stage, protocol in stages)


def test_the_checks_do_not_change_the_images_of_the_caller():
    images = example_images()[:2]
    before = [image.copy() for image in images]
    for check, stage in (
        (check_detector, FakeDetector()),
        (check_cropper, FakeCropper()),
        (check_embedder, FakeEmbedder()),
    ):
        check(stage, images)
    assert all(map(np.array_equal, images, before))
    assert all(image.flags.writeable for image in images)


def test_the_fakes_see_colours():
    tall, wide = FakeDetector()(example_images()[:1])[0]
    assert (tall.label, tall.box, tall.score) == ("dress", Box(4, 8, 20, 56), 1.0)
    assert (wide.label, wide.box, wide.score) == ("top", Box(24, 20, 44, 30), 0.8)
    assert FakeDetector()([np.full((5, 5, 3), 255, np.uint8)]) == [[]]
    picture = np.random.default_rng(3).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    brighter = (picture * 0.9 + 20).astype(np.uint8)
    vectors = FakeEmbedder()([picture, brighter, 255 - picture])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


# --- broken detectors ---


def changed(change):
    """A fake detector whose results are changed."""

    class Changed(FakeDetector):
        def __call__(self, images):
            return change(super().__call__(images), images)

    return Changed()


def each(change):
    return changed(lambda results, _: [[change(found) for found in some] for some in results])


def with_attributes(stage, **attributes):
    for name, value in attributes.items():
        setattr(stage, name, value)
    return stage


def painted(results, images):
    if images and images[0].flags.writeable:
        images[0][0, 0] = 7
    return results


def only_writable(results, images):
    if not all(image.flags.writeable for image in images):
        raise ValueError("read-only")
    return results


def only_large(results, images):
    if any(min(image.shape) < 2 for image in images):
        raise RuntimeError("zero-size kernel")
    return results


def dependent(results, images):
    if len(images) > 1:
        return [[replace(found, score=found.score / 2) for found in some] for some in results]
    return results


def beyond(found):
    return replace(found, box=Box(found.box.x1, found.box.y1, 9999, found.box.y2), mask=None)


def crossed(results, images):
    return [results[0], *results[1:][::-1]] if len(results) > 1 else results


BROKEN_DETECTORS = {
    "labels is a tuple": with_attributes(FakeDetector(), labels=["top", "dress"]),
    "labels is a tuple of distinct": with_attributes(FakeDetector(), labels=("top", "top")),
    "labels is a tuple of distinct names": with_attributes(FakeDetector(), labels=()),
    "input_px is None": with_attributes(FakeDetector(), input_px=0),
    "as many results as inputs": changed(lambda results, _: results[:-1]),
    "results come as a list": changed(lambda results, _: iter(results)),
    "an empty batch gives an empty result": changed(lambda results, images: results if images else [[]]),
    "an empty batch raised": changed(lambda results, images: results[0] and results),
    "an image was": changed(painted),
    "read-only images raised": changed(only_writable),
    "a batch of odd sizes raised": changed(only_large),
    "detections are a list": changed(lambda results, _: [tuple(some) for some in results]),
    "wanted a Detection": each(lambda found: found.box),
    "every label is one of labels": each(lambda found: replace(found, label="sock")),
    "a score is a float": each(lambda found: replace(found, score=np.float32(0.5))),
    "falling score": changed(lambda results, _: [some[::-1] for some in results]),
    "a box lies within": each(beyond),
    "int corners": each(lambda found: replace(found, box=Box(*(np.int64(corner) for corner in found.box.corners)))),
    "by itself, input 0 differs": changed(dependent),
    "a box lies within its photo of 1x1": changed(crossed),
}


@pytest.mark.parametrize(("message", "detector"), BROKEN_DETECTORS.items(), ids=BROKEN_DETECTORS)
def test_a_broken_detector_is_caught(message, detector):
    with pytest.raises(AssertionError, match=message):
        check_detector(detector)


def test_a_detector_may_round_a_score_within_the_tolerance():
    detector = changed(lambda results, images: [
        [replace(found, score=found.score * (1 - len(images) / 1e5)) for found in some] for some in results
    ])  # fmt: skip
    check_detector(detector)
    with pytest.raises(AssertionError, match="by itself"):
        check_detector(detector, score_tolerance=1e-7)


# --- broken croppers ---


class BrokenCropper(FakeCropper):
    def __init__(self, change, fingerprint="broken"):
        self.change, self.fingerprint = change, fingerprint

    def __call__(self, images, detections):
        return self.change(super().__call__(images, detections), images, detections)


def each_crop(change):
    return BrokenCropper(lambda crops, *_: [[change(crop) for crop in some] for some in crops])


def clear_masks(crops, _images, detections):
    for some in detections:
        for found in some:
            if found.mask is not None:
                found.mask[:] = False
    return crops


def paint(crops, images, _detections):
    for image in images:
        if image.flags.writeable:
            image[:] = 0
    return crops


def darkened(crops, images, _detections):
    return [[Crop(crop.image // 2, crop.box) for crop in some] for some in crops] if len(images) > 1 else crops


BROKEN_CROPPERS = {
    "fingerprint is a text": BrokenCropper(lambda crops, *_: crops, fingerprint=""),
    "as many results as inputs": BrokenCropper(lambda crops, *_: crops[1:]),
    "one crop per detection": BrokenCropper(lambda crops, *_: [some[:1] for some in crops]),
    "crops are a list": BrokenCropper(lambda crops, *_: [tuple(some) for some in crops]),
    "wanted a Crop": each_crop(lambda crop: crop.image),
    "at least one pixel": each_crop(lambda crop: Crop(crop.image[:0], crop.box)),
    "uint8": each_crop(lambda crop: Crop(crop.image.astype(np.float32), crop.box)),
    r"a crop is \(h, w, 3\)": each_crop(lambda crop: Crop(crop.image[..., 0], crop.box)),
    "a box lies within": each_crop(lambda crop: Crop(crop.image, Box(0, 0, 9999, 9999))),
    "covers its detection's box": each_crop(lambda crop: Crop(crop.image, Box(0, 0, 1, 1))),
    "a mask was": BrokenCropper(clear_masks),
    "an image was": BrokenCropper(paint),
    "by itself, input 0 differs": BrokenCropper(darkened),
}


@pytest.mark.parametrize(("message", "cropper"), BROKEN_CROPPERS.items(), ids=BROKEN_CROPPERS)
def test_a_broken_cropper_is_caught(message, cropper):
    with pytest.raises(AssertionError, match=message):
        check_cropper(cropper)


# --- broken embedders ---


class BrokenEmbedder(FakeEmbedder):
    def __init__(self, change):
        self.change = change

    def __call__(self, images):
        return self.change(super().__call__(images), images)


class Drifting(FakeEmbedder):
    """Sound in its first calls, another network in the last ones."""

    calls = 0

    def __call__(self, images):
        self.calls += 1
        vectors = super().__call__(images)
        return np.roll(vectors, 1, axis=1) if self.calls > 4 + len(example_images()) else vectors


class ReadingMemory(FakeEmbedder):
    """Takes an image for contiguous memory."""

    def __call__(self, images):
        assumed = [image if image.flags.c_contiguous else image[:, ::-1] for image in images]
        return super().__call__(assumed)


def batch_normalised(vectors, images):
    if len(images) < 2:
        return vectors
    centred = vectors - 0.9 * vectors.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def refuse_strips(vectors, images):
    if any(image.shape[0] == 1 for image in images):
        raise ZeroDivisionError
    return vectors


BROKEN_EMBEDDERS = {
    "fingerprint is a text": with_attributes(FakeEmbedder(), fingerprint=None),
    "dim is at least 1": with_attributes(FakeEmbedder(), dim=49.0),
    "input_px is at least 1": with_attributes(FakeEmbedder(), input_px=None),
    "numpy array": BrokenEmbedder(lambda vectors, _: vectors.tolist()),
    r"wanted float32 \(8, 49\), got float64": BrokenEmbedder(lambda vectors, _: vectors.astype(np.float64)),
    r"wanted float32 \(8, 49\), got float32 \(8, 48\)": BrokenEmbedder(lambda vectors, _: vectors[:, :-1]),
    r"wanted float32 \(8, 49\), got float32 \(7, 49\)": BrokenEmbedder(lambda vectors, _: vectors[:-1]),
    r"wanted float32 \(0, 49\)": BrokenEmbedder(lambda vectors, _: vectors if len(vectors) else vectors.ravel()),
    "norm 1": BrokenEmbedder(lambda vectors, _: vectors * np.float32(1.01)),
    "finite": BrokenEmbedder(lambda vectors, _: vectors * np.float32(np.nan)),
    "an image was": BrokenEmbedder(painted),
    "odd sizes raised": BrokenEmbedder(refuse_strips),
    "by itself, input 0 differs": BrokenEmbedder(batch_normalised),
    "second call differs": Drifting(),
    "crops are views": ReadingMemory(),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("message", "embedder"), BROKEN_EMBEDDERS.items(), ids=BROKEN_EMBEDDERS)
def test_a_broken_embedder_is_caught(message, embedder):
    with pytest.raises(AssertionError, match=message):
        check_embedder(embedder)


def sees_its_place(vectors, _images):
    """Each vector leans by its place in the batch, and the first one not at all."""
    lean = np.roll(vectors, 1, axis=1) * (np.arange(len(vectors)) == len(vectors) - 1)[:, None] * (len(vectors) > 1)
    leaning = vectors + lean
    return (leaning / np.linalg.norm(leaning, axis=1, keepdims=True)).astype(np.float32)


def test_an_embedder_whose_vectors_depend_on_their_place_is_caught():
    with pytest.raises(AssertionError, match="input 7 differs"):
        check_embedder(BrokenEmbedder(sees_its_place))


# --- broken indexes ---


def index_with(**methods):
    return type("Broken", (FakeIndex,), methods)


def searching(change):
    """An index whose answers are changed, given the index, the queries and k."""
    return index_with(search=lambda self, queries, k: change(FakeIndex.search(self, queries, k), self, queries, k))


def accepting(is_bad):
    """An index that takes vectors which it should refuse."""
    return index_with(_check=lambda self, vectors: None if is_bad(vectors) else FakeIndex._check(self, vectors))


def stored(index, rows):
    return np.array([row for row in rows.tolist() if row in index._stored], np.int64)


class WrongDim(FakeIndex):
    def __init__(self, dim):
        super().__init__(dim)
        self.dim = dim + 1


def reversed_order(found, index, _queries, k):
    return found if k > len(index) else Neighbors(found.rows[:, ::-1], found.similarities[:, ::-1])


def every_other(_found, index, queries, k):
    more = FakeIndex.search(index, queries, 2 * k)
    return Neighbors(more.rows[:, ::2].copy(), more.similarities[:, ::2].copy())


def last_one_twice(found, index, _queries, k):
    if k == 10 and len(index) >= k:
        found.rows[:, -1], found.similarities[:, -1] = found.rows[:, -2], found.similarities[:, -2]
    return found


def without_the_query(_found, index, queries, k):
    more = FakeIndex.search(index, queries, k and k + 1)
    places = np.arange(k)[None] + (more.similarities[:, :1] > 0.9999).astype(int)
    return Neighbors(*(np.take_along_axis(array, places, axis=1) for array in (more.rows, more.similarities)))


def change_the_query(found, _index, queries, _k):
    queries[:1] = 0
    return found


def overwrite(self, rows, vectors):
    FakeIndex.remove(self, stored(self, rows))
    FakeIndex.add(self, rows, vectors)


def add_half(self, rows, vectors):
    if len(vectors) == 2 and len(self) > 2:
        FakeIndex.add(self, rows[:1], vectors[:1])
    FakeIndex.add(self, rows, vectors)


def remove_one_by_one(self, rows):
    for row in rows:
        FakeIndex.remove(self, np.array([row]))


def add_and_scale(self, rows, vectors):
    FakeIndex.add(self, rows, vectors)
    vectors *= np.float32(0.5)


def add_without_copying(self, rows, vectors):
    FakeIndex.add(self, rows, vectors)
    self._stored.update(zip(rows.tolist(), vectors, strict=True))


def check_with_type_errors(self, vectors):
    try:
        FakeIndex._check(self, vectors)
    except ValueError as error:
        raise TypeError from error


class Undead(FakeIndex):
    """Removed rows are not counted any more, but still found."""

    def __init__(self, dim):
        super().__init__(dim)
        self.all = FakeIndex(dim)

    def add(self, rows, vectors):
        super().add(rows, vectors)
        new = [row not in self.all._stored for row in rows.tolist()]
        self.all.add(rows[new], vectors[new])

    def search(self, queries, k):
        return self.all.search(queries, k)


class Remembering(FakeIndex):
    """What a removal does to later calls is a subclass's matter."""

    def __init__(self, dim):
        super().__init__(dim)
        self.removed = set()

    def remove(self, rows):
        super().remove(rows)
        self.removed |= set(rows.tolist())


class Miscounting(Remembering):
    def __len__(self):
        return super().__len__() + len(self.removed)


class OnceOnly(Remembering):
    def add(self, rows, vectors):
        if len(rows) == len(vectors):
            new = [row not in self.removed for row in rows.tolist()]
            rows, vectors = rows[new], vectors[new]
        super().add(rows, vectors)


BROKEN_INDICES = {
    "dim is what it was made with": WrongDim,
    "a new index is empty": index_with(__len__=lambda self: max(1, FakeIndex.__len__(self))),
    "row is -1 and similarity -inf": searching(
        lambda found, *_: Neighbors(np.where(found.rows == -1, 0, found.rows), found.similarities)
    ),
    "rows are int64": searching(
        lambda found, index, *_: Neighbors(found.rows[:, : len(index)], found.similarities[:, : len(index)])
    ),
    "similarities are float32": searching(
        lambda found, *_: Neighbors(found.rows, found.similarities.astype(np.float64))
    ),
    "gives Neighbors": searching(lambda found, *_: (found.rows, found.similarities)),
    "falling similarity": searching(reversed_order),
    "similarity is the inner product": searching(
        lambda found, *_: Neighbors(found.rows, -np.sqrt((2 - 2 * found.similarities).clip(0)))
    ),
    "of the nearest are found": searching(every_other),
    "no row is found twice": searching(last_one_twice),
    "no longer found|nearest": searching(without_the_query),
    "the same row|a row that is there": index_with(add=overwrite),
    "a refused add changes nothing, len": index_with(add=add_half),
    "a refused removal changes nothing, len": index_with(remove=remove_one_by_one),
    "is a ValueError": accepting(lambda vectors: vectors.ndim == 2 and bool(np.isfinite(vectors).all())),
    "a NaN in a vector, added, is a ValueError": accepting(lambda vectors: bool(np.isnan(vectors).any())),
    "an infinity in a vector, added, is a ValueError": accepting(lambda vectors: bool(np.isinf(vectors).any())),
    "a zero vector, added, is a ValueError": accepting(
        lambda vectors: vectors.ndim == 2 and not vectors.any(axis=1).all()
    ),
    "a vector too wide, added, is a ValueError": accepting(lambda vectors: vectors.shape[-1] == 17),
    "is a ValueError, got TypeError": index_with(_check=check_with_type_errors),
    "k of 0 is a ValueError": index_with(search=lambda self, queries, k: FakeIndex.search(self, queries, max(1, k))),
    "a row that is not there, removed, is a ValueError": index_with(
        remove=lambda self, rows: FakeIndex.remove(self, stored(self, rows))
    ),
    "a removed row never comes back": Undead,
    "len counts live rows": Miscounting,
    "a removed row can be added again": OnceOnly,
    "inputs are left untouched": index_with(add=add_and_scale),
    "no longer found|inner product|nearest": index_with(add=add_without_copying),
    "an array was changed": searching(change_the_query),
}


@pytest.mark.parametrize(("message", "make_index"), BROKEN_INDICES.items(), ids=BROKEN_INDICES)
def test_a_broken_index_is_caught(message, make_index):
    with pytest.raises(AssertionError, match=rf"^stage protocol: .*({message})"):
        check_index(make_index)


def test_too_small_a_trial_is_refused():
    with pytest.raises(ValueError, match=r"size >= 6 \* k"):
        check_index(FakeIndex, size=50)
