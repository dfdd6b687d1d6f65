"""Every rule that a check enforces fails for a small stage that breaks it, with a message that names the rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.crop import BoxCrop
from stages.index import ExactIndex
from stages.protocols import Detector, Embedder
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


def test_the_fakes_keep_their_protocols():
    check_detector(FakeDetector(), score_tolerance=0)
    check_embedder(FakeEmbedder())
    assert isinstance(FakeDetector(), Detector)
    assert isinstance(FakeEmbedder(), Embedder)


def test_an_index_of_any_size_can_be_checked():
    check_index(ExactIndex, dim=2, size=18, k=3, min_recall=1.0)
    with pytest.raises(ValueError, match=r"size >= 6 \* k"):
        check_index(ExactIndex, size=50)


def test_the_checks_leave_the_callers_images_unchanged():
    images = example_images()[:2]
    before = [image.copy() for image in images]
    check_detector(FakeDetector(), images)
    check_cropper(BoxCrop(), images)
    check_embedder(FakeEmbedder(), images)
    assert all(map(np.array_equal, images, before))
    assert all(image.flags.writeable for image in images)


def test_the_fakes_see_colours():
    tall, wide = FakeDetector()(example_images()[:1])[0]
    assert (tall.label, tall.box, tall.score) == ("dress", Box(4, 8, 20, 56), 1.0)
    assert (wide.label, wide.box, wide.score) == ("top", Box(24, 20, 44, 30), 0.8)
    assert FakeDetector()([np.full((5, 5, 3), 255, np.uint8)]) == [[]]
    picture = np.random.default_rng(3).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    vectors = FakeEmbedder()([picture, (picture * 0.9 + 20).astype(np.uint8), 255 - picture])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def with_attributes(stage, **attributes):
    for name, value in attributes.items():
        setattr(stage, name, value)
    return stage


def changed(fake, change):
    """A fake stage whose results are changed, given the results and the images."""
    return type("Changed", (fake,), {"__call__": lambda self, images: change(fake.__call__(self, images), images)})()


def detecting(change):
    return changed(FakeDetector, change)


def each(change):
    return detecting(lambda results, _: [[change(one) for one in some] for some in results])


def paint_an_image(results, images):
    for image in images:
        if image.flags.writeable:
            image[0, 0] = 7
    return results


def refuse(condition):
    def change(results, images):
        if any(condition(image) for image in images):
            raise RuntimeError("refused")
        return results

    return change


def halve_scores_in_a_batch(results, images):
    return [[replace(one, score=one.score / min(len(images), 2)) for one in some] for some in results]


BROKEN_DETECTORS = {
    "labels is a tuple of distinct names, got \\[": with_attributes(FakeDetector(), labels=["top", "dress"]),
    "labels is a tuple of distinct names, got \\('top', 'top'": with_attributes(FakeDetector(), labels=("top", "top")),
    "input_px is None or at least 1": with_attributes(FakeDetector(), input_px=0),
    "as many results as inputs": detecting(lambda results, _: results[:-1]),
    "results are a list": detecting(lambda results, _: iter(results)),
    "an empty batch gives an empty result": detecting(lambda results, images: results if images else [[]]),
    "an empty batch raised": detecting(lambda results, _: results[0] and results),
    "an image was changed": detecting(paint_an_image),
    "read-only images raised": detecting(refuse(lambda image: not image.flags.writeable)),
    "a batch of odd sizes raised": detecting(refuse(lambda image: min(image.shape) < 2)),
    "detections are a list": detecting(lambda results, _: [tuple(some) for some in results]),
    "a detection is a Detection": each(lambda one: one.box),
    "every label is one of labels": each(lambda one: replace(one, label="sock")),
    "a score is a float": each(lambda one: replace(one, score=np.float32(0.5))),
    "falling score": detecting(lambda results, _: [some[::-1] for some in results]),
    "a box lies within": each(lambda one: replace(one, box=Box(0, 0, 9999, 1), mask=None)),
    "int corners": each(lambda one: replace(one, box=Box(*map(np.int64, one.box.corners)))),
    "that of input 0 alone differs": detecting(halve_scores_in_a_batch),
    "a box lies within its photo of 1x1": detecting(lambda results, _: results[:1] + results[:0:-1]),
}


@pytest.mark.parametrize(("message", "detector"), BROKEN_DETECTORS.items(), ids=BROKEN_DETECTORS)
def test_a_broken_detector_is_caught(message, detector):
    with pytest.raises(AssertionError, match=message):
        check_detector(detector)


def test_a_detector_may_round_a_score_within_the_tolerance():
    detector = detecting(lambda results, images: [
        [replace(one, score=one.score * (1 - len(images) / 1e5)) for one in some] for some in results
    ])  # fmt: skip
    check_detector(detector)
    with pytest.raises(AssertionError, match="alone differs"):
        check_detector(detector, score_tolerance=1e-7)


class BrokenCropper:
    def __init__(self, change, fingerprint="broken"):
        self.change, self.fingerprint = change, fingerprint

    def __call__(self, images, detections):
        return self.change(BoxCrop()(images, detections), images, detections)


def each_crop(change):
    return BrokenCropper(lambda crops, *_: [[change(crop) for crop in some] for some in crops])


def clear_masks(crops, _images, detections):
    for one in (one for some in detections for one in some if one.mask is not None):
        one.mask[:] = False
    return crops


def darken_in_a_batch(crops, images, _detections):
    return [[Crop(crop.image // min(len(images), 2), crop.box) for crop in some] for some in crops]


BROKEN_CROPPERS = {
    "fingerprint is a text": BrokenCropper(lambda crops, *_: crops, fingerprint=""),
    "as many results as inputs": BrokenCropper(lambda crops, *_: crops[1:]),
    "each detection gives one crop": BrokenCropper(lambda crops, *_: [some[:1] for some in crops]),
    "crops are a list": BrokenCropper(lambda crops, *_: [tuple(some) for some in crops]),
    "a crop is a Crop": each_crop(lambda crop: crop.image),
    "at least one pixel": each_crop(lambda crop: Crop(crop.image[:0], crop.box)),
    "uint8": each_crop(lambda crop: Crop(crop.image.astype(np.float32), crop.box)),
    r"a crop is \(h, w, 3\)": each_crop(lambda crop: Crop(crop.image[..., 0], crop.box)),
    "a box lies within": each_crop(lambda crop: Crop(crop.image, Box(0, 0, 9999, 9999))),
    "covers its detection's box": each_crop(lambda crop: Crop(crop.image, Box(0, 0, 1, 1))),
    "a mask was changed": BrokenCropper(clear_masks),
    "an image was changed": BrokenCropper(lambda crops, images, _: paint_an_image(crops, images)),
    "that of input 0 alone differs": BrokenCropper(darken_in_a_batch),
}


@pytest.mark.parametrize(("message", "cropper"), BROKEN_CROPPERS.items(), ids=BROKEN_CROPPERS)
def test_a_broken_cropper_is_caught(message, cropper):
    with pytest.raises(AssertionError, match=message):
        check_cropper(cropper)


def embedding(change):
    return changed(FakeEmbedder, change)


class DriftingEmbedder(FakeEmbedder):
    """Sound in the calls of one batch, another network in the calls that follow."""

    calls = 0

    def __call__(self, images):
        self.calls += 1
        vectors = super().__call__(images)
        return np.roll(vectors, 1, axis=1) if self.calls > 4 + len(example_images()) else vectors


class StrideIgnoringEmbedder(FakeEmbedder):
    """Takes every image for contiguous memory."""

    def __call__(self, images):
        return super().__call__([image if image.flags.c_contiguous else image[:, ::-1] for image in images])


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def lean_at_the_end(vectors, _images):
    """Change the last vector of a batch of several."""
    last = (np.arange(len(vectors)) == len(vectors) - 1) * (len(vectors) > 1)
    return unit(vectors + np.roll(vectors, 1, axis=1) * last[:, None])


BROKEN_EMBEDDERS = {
    "fingerprint is a text": with_attributes(FakeEmbedder(), fingerprint=None),
    "dim is at least 1": with_attributes(FakeEmbedder(), dim=49.0),
    "input_px is at least 1": with_attributes(FakeEmbedder(), input_px=None),
    "numpy array": embedding(lambda vectors, _: vectors.tolist()),
    r"are float32 \(8, 49\), got float64": embedding(lambda vectors, _: vectors.astype(np.float64)),
    r"are float32 \(8, 49\), got float32 \(8, 48\)": embedding(lambda vectors, _: vectors[:, :-1]),
    r"are float32 \(0, 49\)": embedding(lambda vectors, _: vectors if len(vectors) else vectors.ravel()),
    "norm 1": embedding(lambda vectors, _: vectors * np.float32(1.01)),
    "finite": embedding(lambda vectors, _: vectors * np.float32(np.nan)),
    "an image was changed": embedding(paint_an_image),
    "odd sizes raised": embedding(refuse(lambda image: image.shape[0] == 1)),
    "that of input 0 alone differs": embedding(
        lambda vectors, _: unit(vectors - 0.9 * vectors.mean(axis=0)) if len(vectors) > 1 else vectors
    ),
    "that of input 7 alone differs": embedding(lean_at_the_end),
    "second call differs": DriftingEmbedder(),
    "crops are views": StrideIgnoringEmbedder(),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("message", "embedder"), BROKEN_EMBEDDERS.items(), ids=BROKEN_EMBEDDERS)
def test_a_broken_embedder_is_caught(message, embedder):
    with pytest.raises(AssertionError, match=message):
        check_embedder(embedder)


def index_with(**methods):
    return type("Broken", (ExactIndex,), methods)


def searching(change):
    """An index whose answers are changed, given the answer, the index, the queries and k."""
    return index_with(search=lambda self, queries, k: change(ExactIndex.search(self, queries, k), self, queries, k))


def accepting(is_bad):
    """An index that accepts vectors which it should refuse."""
    return index_with(
        add=lambda self, rows, vectors: None if is_bad(vectors) else ExactIndex.add(self, rows, vectors),
        search=lambda self, queries, k: None if is_bad(queries) else ExactIndex.search(self, queries, k),
    )


def stored(index, rows):
    return np.array([row for row in rows.tolist() if row in index._positions], np.int64)


def remembering(**methods):
    """An index that keeps the rows that were removed in ``removed``, for other methods to misuse."""

    def remove(self, rows):
        ExactIndex.remove(self, rows)
        self.removed = getattr(self, "removed", set()) | set(rows.tolist())

    return index_with(removed=set(), remove=remove, **methods)


class MisnumberedIndex(ExactIndex):
    def __init__(self, dim):
        super().__init__(dim)
        self.dim = dim + 1


class UndeadIndex(ExactIndex):
    """Finds removed rows, which it does not count any more."""

    def __init__(self, dim):
        super().__init__(dim)
        self.all = ExactIndex(dim)

    def add(self, rows, vectors):
        super().add(rows, vectors)
        new = [row not in self.all._positions for row in rows.tolist()]
        self.all.add(rows[new], vectors[new])

    def search(self, queries, k):
        return self.all.search(queries, k)


def every_other(_result, index, queries, k):
    more = ExactIndex.search(index, queries, 2 * k)
    return Neighbors(more.rows[:, ::2].copy(), more.similarities[:, ::2].copy())


def last_one_twice(result, index, _queries, k):
    if k == 10 and len(index) >= k:
        result.rows[:, -1], result.similarities[:, -1] = result.rows[:, -2], result.similarities[:, -2]
    return result


def without_the_query(_result, index, queries, k):
    more = ExactIndex.search(index, queries, k and k + 1)
    places = np.arange(k)[None] + (more.similarities[:, :1] > 0.9999).astype(int)
    return Neighbors(*(np.take_along_axis(array, places, axis=1) for array in (more.rows, more.similarities)))


def change_the_query(result, _index, queries, _k):
    queries[:1] = 0
    return result


def overwrite(self, rows, vectors):
    ExactIndex.remove(self, stored(self, rows))
    ExactIndex.add(self, rows, vectors)


def add_half_of_two(self, rows, vectors):
    if len(vectors) == 2 and len(self) > 2:
        ExactIndex.add(self, rows[:1], vectors[:1])
    ExactIndex.add(self, rows, vectors)


def add_and_scale(self, rows, vectors):
    ExactIndex.add(self, rows, vectors)
    vectors *= np.float32(0.5)


def add_without_copying(self, rows, vectors):
    ExactIndex.add(self, rows, vectors)
    if len(rows) == len(self):
        self._vectors = vectors


def add_once_only(self, rows, vectors):
    new = [row not in self.removed for row in rows.tolist()]
    ExactIndex.add(self, rows[new], vectors[new] if len(vectors) == len(rows) else vectors)


def add_with_type_errors(self, rows, vectors):
    try:
        ExactIndex.add(self, rows, vectors)
    except ValueError as error:
        raise TypeError from error


BROKEN_INDEXES = {
    "dim is what it was made with": MisnumberedIndex,
    "len counts the stored rows, 0, got 1": index_with(__len__=lambda self: max(1, ExactIndex.__len__(self))),
    "row is -1 and similarity -inf": searching(
        lambda result, *_: Neighbors(np.where(result.rows == -1, 0, result.rows), result.similarities)
    ),
    "rows are int64": searching(
        lambda result, index, *_: Neighbors(result.rows[:, : len(index)], result.similarities[:, : len(index)])
    ),
    "similarities are float32": searching(
        lambda result, *_: Neighbors(result.rows, result.similarities.astype(np.float64))
    ),
    "search returns Neighbors": searching(lambda result, *_: (result.rows, result.similarities)),
    "falling similarity": searching(
        lambda result, *_: (
            Neighbors(result.rows[:, ::-1], result.similarities[:, ::-1]) if (result.rows >= 0).all() else result
        )
    ),
    "similarity is the inner product": searching(
        lambda result, *_: Neighbors(result.rows, -np.sqrt((2 - 2 * result.similarities).clip(0)))
    ),
    "of the nearest are found": searching(every_other),
    "finds no row twice": searching(last_one_twice),
    "no longer found|nearest": searching(without_the_query),
    "the same row|a stored row": index_with(add=overwrite),
    "a refused addition changes nothing, len": index_with(add=add_half_of_two),
    "a refused removal changes nothing, len": index_with(
        remove=lambda self, rows: [ExactIndex.remove(self, np.array([row])) for row in rows]
    ),
    "a NaN in a vector, added, raises a ValueError": accepting(lambda vectors: bool(np.isnan(vectors).any())),
    "an infinity in a vector, added, raises": accepting(lambda vectors: bool(np.isinf(vectors).any())),
    "a zero vector, added, raises": accepting(lambda vectors: vectors.ndim == 2 and not vectors.any(axis=1).all()),
    "a vector of norm 2, added, raises": accepting(
        lambda vectors: vectors.ndim == 2 and np.isclose((vectors**2).sum(1), 4).any()
    ),
    "a vector too wide, added, raises": accepting(lambda vectors: vectors.shape[-1] == 17),
    "a vector too narrow, added, raises": accepting(lambda vectors: vectors.ndim == 2 and vectors.shape[-1] == 15),
    "raises a ValueError, got TypeError": index_with(add=add_with_type_errors),
    "k of 0 raises": index_with(search=lambda self, queries, k: ExactIndex.search(self, queries, max(1, k))),
    "an unknown row, removed, raises": index_with(
        remove=lambda self, rows: ExactIndex.remove(self, stored(self, rows))
    ),
    "a removed row never comes back": UndeadIndex,
    "len counts the stored rows, 160": remembering(__len__=lambda self: len(self._positions) + len(self.removed)),
    "a removed row can be added again": remembering(add=add_once_only),
    "inputs are left unchanged": index_with(add=add_and_scale),
    "no longer found|inner product|nearest|infinity": index_with(add=add_without_copying),
    "an array was changed": searching(change_the_query),
}


@pytest.mark.parametrize(("message", "make_index"), BROKEN_INDEXES.items(), ids=BROKEN_INDEXES)
def test_a_broken_index_is_caught(message, make_index):
    with pytest.raises(AssertionError, match=rf"^stage protocol: .*({message})"):
        check_index(make_index)
