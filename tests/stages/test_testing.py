"""The fakes keep the law, and for every clause a small broken stage is caught: the checks can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from stages.protocols import Cropper, Detector, Embedder, Index
from stages.testing import (
    FakeCropper,
    FakeDetector,
    FakeEmbedder,
    FakeIndex,
    check_cropper,
    check_detector,
    check_embedder,
    check_index,
    example_images,
)
from stages.types import Box, Crop, Detection, Neighbors

# --- the fakes ---


def test_the_fakes_keep_the_law():
    check_detector(FakeDetector(), score_tolerance=0)
    check_cropper(FakeCropper())
    check_embedder(FakeEmbedder())
    check_index(FakeIndex, min_recall=1.0)
    check_index(FakeIndex, dim=2, size=18, k=3, min_recall=1.0)


def test_the_fakes_are_of_the_protocols():
    assert isinstance(FakeDetector(), Detector)
    assert isinstance(FakeCropper(), Cropper)
    assert isinstance(FakeEmbedder(), Embedder)
    assert isinstance(FakeIndex(3), Index)


def test_the_checks_take_images_of_the_callers_and_leave_them():
    images = example_images()[:2]
    before = [image.copy() for image in images]
    check_detector(FakeDetector(), images)
    check_cropper(FakeCropper(), images)
    check_embedder(FakeEmbedder(), images)
    assert all(map(np.array_equal, images, before))
    assert all(image.flags.writeable for image in images)


def test_example_images_are_new_and_the_same_each_time():
    first, second = example_images(), example_images()
    assert all(map(np.array_equal, first, second))
    assert not any(map(np.shares_memory, first, second))
    assert {image.shape[:2] for image in first} >= {(1, 1), (1, 300), (300, 1), (64, 48)}


def test_the_fake_detector_finds_what_is_not_white():
    tall, wide = FakeDetector()(example_images()[:1])[0]
    assert (tall.label, tall.box, tall.score) == ("dress", Box(4, 8, 20, 56), 1.0)
    assert (wide.label, wide.box, wide.score) == ("top", Box(24, 20, 44, 30), 0.8)
    assert FakeDetector()([np.full((5, 5, 3), 255, np.uint8)]) == [[]]


def test_the_fake_embedder_tells_what_looks_alike():
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
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
    "an image was changed": changed(painted),
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


@pytest.mark.parametrize(("clause", "detector"), BROKEN_DETECTORS.items(), ids=BROKEN_DETECTORS)
def test_a_broken_detector_is_caught(clause, detector):
    with pytest.raises(AssertionError, match=clause):
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
    "a mask was changed": BrokenCropper(clear_masks),
    "an image was changed": BrokenCropper(paint),
    "by itself, input 0 differs": BrokenCropper(darkened),
}


@pytest.mark.parametrize(("clause", "cropper"), BROKEN_CROPPERS.items(), ids=BROKEN_CROPPERS)
def test_a_broken_cropper_is_caught(clause, cropper):
    with pytest.raises(AssertionError, match=clause):
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
    "an image was changed": BrokenEmbedder(painted),
    "odd sizes raised": BrokenEmbedder(refuse_strips),
    "by itself, input 0 differs": BrokenEmbedder(batch_normalised),
    "second call differs": Drifting(),
    "crops are views": ReadingMemory(),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("clause", "embedder"), BROKEN_EMBEDDERS.items(), ids=BROKEN_EMBEDDERS)
def test_a_broken_embedder_is_caught(clause, embedder):
    with pytest.raises(AssertionError, match=clause):
        check_embedder(embedder)


def sees_its_place(vectors, _images):
    """Each vector leans by its place in the batch, and the first one not at all."""
    lean = np.roll(vectors, 1, axis=1) * (np.arange(len(vectors)) == len(vectors) - 1)[:, None] * (len(vectors) > 1)
    leaning = vectors + lean
    return (leaning / np.linalg.norm(leaning, axis=1, keepdims=True)).astype(np.float32)


def test_an_embedder_whose_vectors_depend_on_their_place_is_caught():
    with pytest.raises(AssertionError, match="input 7 differs"):
        check_embedder(BrokenEmbedder(sees_its_place))


# --- broken indices ---


class WrongDim(FakeIndex):
    def __init__(self, dim):
        super().__init__(dim)
        self.dim = dim + 1


class NeverEmpty(FakeIndex):
    def __len__(self):
        return max(1, super().__len__())


class PadsWithZero(FakeIndex):
    def search(self, queries, k):
        found = super().search(queries, k)
        return Neighbors(np.where(found.rows == -1, 0, found.rows), found.similarities)


class Unpadded(FakeIndex):
    def search(self, queries, k):
        found = super().search(queries, k)
        return Neighbors(found.rows[:, : len(self)], found.similarities[:, : len(self)])


class Doubles(FakeIndex):
    def search(self, queries, k):
        found = super().search(queries, k)
        return Neighbors(found.rows, found.similarities.astype(np.float64))


class Pairs(FakeIndex):
    def search(self, queries, k):
        found = super().search(queries, k)
        return found.rows, found.similarities


class Rising(FakeIndex):
    def search(self, queries, k):
        found = super().search(queries, k)
        if k > len(self):
            return found
        return Neighbors(found.rows[:, ::-1], found.similarities[:, ::-1])


class Distances(FakeIndex):
    def search(self, queries, k):
        found = super().search(queries, k)
        return Neighbors(found.rows, -np.sqrt((2 - 2 * found.similarities).clip(0)))


class Forgetful(FakeIndex):
    """Finds every other one of the nearest."""

    def search(self, queries, k):
        found = super().search(queries, 2 * k)
        return Neighbors(found.rows[:, ::2].copy(), found.similarities[:, ::2].copy())


class Repeating(FakeIndex):
    """Its best neighbour twice, in the last place."""

    def search(self, queries, k):
        found = super().search(queries, k)
        if k == 10 and len(self) >= k:
            found.rows[:, -1], found.similarities[:, -1] = found.rows[:, -2], found.similarities[:, -2]
        return found


class Shy(FakeIndex):
    """Leaves out what is the same as the query."""

    def search(self, queries, k):
        found = super().search(queries, k and k + 1)
        shift = (found.similarities[:, :1] > 0.9999).astype(int)
        places = np.arange(k)[None] + shift
        return Neighbors(*(np.take_along_axis(array, places, axis=1) for array in (found.rows, found.similarities)))


class Overwriting(FakeIndex):
    def add(self, rows, vectors):
        there = [row for row in rows.tolist() if row in self._stored]
        super().remove(np.array(there, np.int64))
        super().add(rows, vectors)


class HalfAdding(FakeIndex):
    def add(self, rows, vectors):
        if len(vectors) == 2 and len(self) > 2:
            super().add(rows[:1], vectors[:1])
        super().add(rows, vectors)


class HalfRemoving(FakeIndex):
    def remove(self, rows):
        for row in rows:
            super().remove(np.array([row]))


class Careless(FakeIndex):
    """Takes the vectors that ``ignored`` describes."""

    ignored: ClassVar = staticmethod(lambda vectors: False)

    def _check(self, vectors):
        if not self.ignored(vectors):
            super()._check(vectors)


class TakesUnnormalised(Careless):
    ignored: ClassVar = staticmethod(lambda vectors: vectors.ndim == 2 and bool(np.isfinite(vectors).all()))


class TakesNan(Careless):
    ignored: ClassVar = staticmethod(lambda vectors: bool(np.isnan(vectors).any()))


class TakesInfinity(Careless):
    ignored: ClassVar = staticmethod(lambda vectors: bool(np.isinf(vectors).any()))


class TakesZero(Careless):
    ignored: ClassVar = staticmethod(lambda vectors: vectors.ndim == 2 and not vectors.any(axis=1).all())


class TakesWide(Careless):
    ignored: ClassVar = staticmethod(lambda vectors: vectors.shape[-1] == 17)


class TypeErrors(FakeIndex):
    def _check(self, vectors):
        try:
            super()._check(vectors)
        except ValueError as error:
            raise TypeError from error


class AnyK(FakeIndex):
    def search(self, queries, k):
        return super().search(queries, max(1, k))


class Unmoved(FakeIndex):
    """Removing what is not there goes unsaid."""

    def remove(self, rows):
        there = [row for row in rows.tolist() if row in self._stored]
        super().remove(np.array(there, np.int64))


class Undead(FakeIndex):
    """Removed rows are counted out and still found."""

    def __init__(self, dim):
        super().__init__(dim)
        self.ghosts = FakeIndex(dim)

    def add(self, rows, vectors):
        super().add(rows, vectors)
        new = [row not in self.ghosts._stored for row in rows.tolist()]
        self.ghosts.add(rows[new], vectors[new])

    def search(self, queries, k):
        return self.ghosts.search(queries, k)


class Miscounting(FakeIndex):
    removed = 0

    def __len__(self):
        return super().__len__() + self.removed

    def remove(self, rows):
        super().remove(rows)
        self.removed += len(rows)


class OnceOnly(FakeIndex):
    """A row that was removed is gone for good."""

    def __init__(self, dim):
        super().__init__(dim)
        self.gone = set()

    def remove(self, rows):
        super().remove(rows)
        self.gone |= set(rows.tolist())

    def add(self, rows, vectors):
        fresh = [row not in self.gone for row in rows.tolist()]
        super().add(rows[fresh], vectors[fresh]) if len(fresh) == len(vectors) else super().add(rows, vectors)


class Normalising(FakeIndex):
    def add(self, rows, vectors):
        super().add(rows, vectors)
        vectors *= np.float32(0.5)


class Borrowing(FakeIndex):
    """Keeps the caller's memory."""

    def add(self, rows, vectors):
        super().add(rows, vectors)
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            self._stored[row] = vector


class Scribbling(FakeIndex):
    def search(self, queries, k):
        found = super().search(queries, k)
        queries[:1] = 0
        return found


BROKEN_INDICES = [
    (WrongDim, "dim is what it was made with"),
    (NeverEmpty, "a new index is empty"),
    (PadsWithZero, "row is -1 and similarity -inf"),
    (Unpadded, "rows are int64"),
    (Doubles, "similarities are float32"),
    (Pairs, "gives Neighbors"),
    (Rising, "falling similarity"),
    (Distances, "similarity is the inner product"),
    (Forgetful, "of the nearest are found"),
    (Repeating, "no row is found twice"),
    (Shy, "no longer found|nearest"),
    (Overwriting, "the same row|a row that is there"),
    (HalfAdding, "a refused add changes nothing, len"),
    (HalfRemoving, "a refused removal changes nothing, len"),
    (TakesUnnormalised, "is a ValueError"),
    (TakesNan, "a NaN in a vector, added, is a ValueError"),
    (TakesInfinity, "an infinity in a vector, added, is a ValueError"),
    (TakesZero, "a zero vector, added, is a ValueError"),
    (TakesWide, "a vector too wide, added, is a ValueError"),
    (TypeErrors, "is a ValueError, got TypeError"),
    (AnyK, "k of 0 is a ValueError"),
    (Unmoved, "a row that is not there, removed, is a ValueError"),
    (Undead, "a removed row never comes back"),
    (Miscounting, "len counts live rows"),
    (OnceOnly, "a removed row can be added again"),
    (Normalising, "inputs are left untouched"),
    (Borrowing, "no longer found|inner product|nearest"),
    (Scribbling, "inputs are left untouched"),
]


@pytest.mark.parametrize(("make_index", "clause"), BROKEN_INDICES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_index_is_caught(make_index, clause):
    with pytest.raises(AssertionError, match=clause):
        check_index(make_index)


def test_too_small_a_trial_is_refused():
    with pytest.raises(ValueError, match=r"size >= 6 \* k"):
        check_index(FakeIndex, size=50)


def test_every_clause_of_an_index_names_the_law():
    with pytest.raises(AssertionError, match=r"^the law of stages: "):
        check_index(NeverEmpty)


def test_a_detection_cannot_break_the_clauses_that_its_type_keeps():
    with pytest.raises(ValueError, match="score"):
        Detection("top", 1.5, Box(0, 0, 1, 1))
    with pytest.raises(ValueError, match="mask"):
        Detection("top", 0.5, Box(0, 0, 2, 2), np.ones((2, 3), np.bool_))
