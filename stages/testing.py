"""Checks that any stage keeps its protocol, and a fake detector and embedder for tests.

Each check calls a stage in many ways and raises an ``AssertionError`` that names the broken rule. Its images are
:func:`example_images` if none are given. The checks need only numpy and work in any test framework, or without one. ::

    from stages.testing import check_detector

    def test_my_detector():
        check_detector(MyDetector())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.protocols import Cropper, Detector, Embedder, Index, TextEmbedder
from stages.types import Box, Crop, Detection, Image, Neighbors, Vectors

__all__ = [
    "FakeDetector", "FakeEmbedder", "check_cropper", "check_detector", "check_embedder", "check_index",
    "check_text_embedder", "example_images",
]  # fmt: skip

Stage: TypeAlias = Callable[[Sequence[Any]], Any]
Rows: TypeAlias = NDArray[np.int64]

_UNUSED_ROW: Final = 10_000_019
_WRONG_VECTORS: Final[dict[str, Callable[[Vectors], NDArray[np.floating]]]] = {
    "a NaN in a vector": lambda good: good * np.array([[1], [np.nan]]),
    "an infinity in a vector": lambda good: good * np.array([[1], [np.inf]]),
    "a zero vector": lambda good: good * np.array([[1], [0]]),
    "a vector of norm 2": lambda good: good * np.array([[1], [2]]),
    "a vector too wide": lambda good: np.pad(good, ((0, 0), (0, 1))),
    "a vector too narrow": lambda good: _unit(good[:, :-1]),
    "a vector without its axis of rows": lambda good: good[0],
}


def check_detector(detector: Detector, images: Sequence[Image] | None = None, score_tolerance: float = 1e-3) -> None:
    """Check a detector: attributes, batches, boxes, labels, scores, inputs.

    The scores of a photo in a batch and by itself may differ by ``score_tolerance``.
    """
    labels, input_px = detector.labels, detector.input_px
    named = isinstance(labels, tuple) and all(isinstance(label, str) and label for label in labels)
    _require(named and len(set(labels)) == len(labels) > 0, f"labels is a tuple of distinct names, got {labels!r}")
    _require(input_px is None or _is_positive(input_px), f"input_px is None or at least 1, got {input_px!r}")

    def check(image: Image, detections: Any) -> None:
        height, width, _ = image.shape
        _require(isinstance(detections, list), f"a photo's detections are a list, got {type(detections).__name__}")
        for one in detections:
            _require(isinstance(one, Detection), f"a detection is a Detection, got {type(one).__name__}")
            _require(one.label in labels, f"every label is one of labels, got {one.label!r}")
            _require(isinstance(one.score, float), f"a score is a float, got {type(one.score).__name__}")
            _check_box(one.box, width, height)
        scores = [one.score for one in detections]
        falling = all(first >= second for first, second in pairwise(scores))
        _require(falling, f"detections are ordered by falling score, got {scores}")

    def alike(one: Detection, other: Detection) -> bool:  # rounding may move an edge by a pixel
        near = max(abs(ours - theirs) for ours, theirs in zip(one.box.corners, other.box.corners, strict=True)) <= 1
        masked = (one.mask is None) == (other.mask is None)
        return near and masked and one.label == other.label and abs(one.score - other.score) <= score_tolerance

    def same(ours: list[Detection], theirs: list[Detection]) -> bool:
        return len(ours) == len(theirs) and all(any(alike(one, other) for other in theirs) for one in ours)

    photos = [image.copy() for image in images or example_images()]
    _check_batches(detector, photos, photos, check, same)


def check_cropper(cropper: Cropper, images: Sequence[Image] | None = None) -> None:
    """Check a cropper: batches, pixels, boxes, photos without detections, inputs.

    Some detections have masks; they cover the whole photo, parts of it, or a corner pixel.
    """
    _check_fingerprint(cropper.fingerprint)
    photos = [image.copy() for image in images or example_images()]
    pairs: list[tuple[Image, list[Detection]]] = [(image, _example_detections(image)) for image in photos]
    pairs.append((photos[0], []))

    def crop(batch: Sequence[tuple[Image, list[Detection]]]) -> list[list[Crop]]:
        masks = [one.mask for _, detections in batch for one in detections if one.mask is not None]
        before = [mask.copy() for mask in masks]
        crops = cropper([image for image, _ in batch], [detections for _, detections in batch])
        _require(all(map(np.array_equal, before, masks)), "inputs are left unchanged, a mask was changed")
        return crops

    def check(pair: tuple[Image, list[Detection]], crops: Any) -> None:
        image, detections = pair
        _require(isinstance(crops, list), f"a photo's crops are a list, got {type(crops).__name__}")
        _require(len(crops) == len(detections), f"each detection gives one crop, got {len(crops)} of {len(detections)}")
        for one, detection in zip(crops, detections, strict=True):
            _check_crop(one, detection, image)

    def same(ours: list[Crop], theirs: list[Crop]) -> bool:
        return all(
            one.box == other.box and np.array_equal(one.image, other.image)
            for one, other in zip(ours, theirs, strict=True)
        )

    _check_batches(crop, pairs, photos, check, same)


def check_embedder(embedder: Embedder, images: Sequence[Image] | None = None) -> None:
    """Check an embedder: attributes, batches, unit rows, reproducibility, views, inputs."""
    _check_fingerprint(embedder.fingerprint)
    _require(_is_positive(embedder.dim), f"dim is at least 1, got {embedder.dim!r}")
    _require(_is_positive(embedder.input_px), f"input_px is at least 1, got {embedder.input_px!r}")

    def embed(batch: Sequence[Image]) -> Vectors:
        vectors = embedder(batch)
        _check_array("vectors", vectors, (len(batch), embedder.dim), np.float32)
        return vectors

    def check(_image: Image, vector: Vectors) -> None:
        _require(np.isfinite(vector).all(), "vectors are finite")
        norm = np.linalg.norm(vector)
        _require(abs(norm - 1) < 1e-3, f"vectors are of norm 1, got {norm:.4f}")

    def same(ours: Vectors, theirs: Vectors) -> bool:
        return float(ours @ theirs) > 0.999

    pictures = [image.copy() for image in images or example_images()]
    vectors = _check_batches(embed, pictures, pictures, check, same)
    again = _call(embed, pictures, "the same batch again")
    _require(all(map(same, vectors, again)), "the same images give the same vectors, a second call differs")
    mirrored = [image[:, ::-1] for image in pictures]
    views = _call(embed, mirrored, "views with unusual strides")
    copies = _call(embed, [image.copy() for image in mirrored], "mirrored images")
    _require(all(map(same, views, copies)), "a view gives the vector of its copy: crops are views")


def check_text_embedder(embedder: TextEmbedder, texts: Sequence[str] = ("red dress", "black shoes")) -> None:
    """Check an embedder of texts, given two or more that it understands: unit rows, batches, an empty text."""
    vectors = embedder.embed_text(list(texts))
    _check_array("vectors", vectors, (len(texts), embedder.dim), np.float32)
    _check_array("the vectors of no texts", embedder.embed_text([]), (0, embedder.dim), np.float32)
    _require((abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3).all(), "vectors are of norm 1")
    alone = [embedder.embed_text([text])[0] for text in texts]
    _require(np.allclose(vectors, alone, atol=1e-4), "a text's vector does not depend on the other texts")
    _require_refusal("an empty text", embedder.embed_text, [""])


def check_index(
    make_index: Callable[[int], Index], dim: int = 16, size: int = 200, k: int = 10, min_recall: float = 0.95
) -> None:
    """Check an index: empty, filled, thinned out, refilled, and given wrong input.

    Args:
        make_index: makes an empty index of a given dim.
        dim: the width of the vectors to try, at least 2.
        size: how many vectors to try, at least 6 * k.
        k: how many neighbors to ask for.
        min_recall: the share of the true k nearest that must be found; 1.0 for an exact index.

    Raises:
        ValueError: there are too few dimensions or vectors for the check.
    """
    if dim < 2 or k < 1 or size < 6 * k:
        raise ValueError(f"wanted dim >= 2, k >= 1 and size >= 6 * k, got dim={dim}, k={k}, size={size}")
    rng = np.random.default_rng(0)
    vectors = _unit(rng.normal(size=(size, dim)))
    queries = _unit(vectors[: 4 * k] + 0.2 * _unit(rng.normal(size=(4 * k, dim))))
    rows = rng.permutation(np.arange(size, dtype=np.int64) * 7)
    index = make_index(dim)
    _require(index.dim == dim, f"dim is what it was made with, {dim}, got {index.dim}")
    _check_empty(index, vectors)
    _check_wrong_vectors(index, vectors[:2])
    for half in (slice(size // 2), slice(size // 2, size)):
        _with_copies(index.add, rows[half], vectors[half])
    _check_length(index, size)
    _check_wrong_rows(index, rows, vectors)
    _check_search(index, rows, vectors, queries, min_recall)
    padded = _search(index, queries[:3], size + 3).rows[:, size:]
    _require((padded == -1).all(), f"beyond the {size} stored rows, rows are -1")
    _check_removal(index, rows, vectors, queries, min_recall)


def _require(holds: object, rule: str) -> None:
    if not holds:
        raise AssertionError(f"stage protocol: {rule}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_fingerprint(fingerprint: object) -> None:
    _require(isinstance(fingerprint, str) and fingerprint, f"fingerprint is a text, got {fingerprint!r}")


def _check_array(name: str, array: object, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    _require(isinstance(array, np.ndarray), f"{name} are a numpy array, got {type(array).__name__}")
    got = getattr(array, "shape", None), getattr(array, "dtype", None)
    _require(got == (shape, dtype), f"{name} are {np.dtype(dtype)} {shape}, got {got[1]} {got[0]}")


def _call(stage: Stage, batch: Sequence[Any], what: str) -> Any:
    try:
        return stage(batch)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"stage protocol: any batch is accepted, {what} raised {error!r}") from error


def _check_batches(
    stage: Stage,
    batch: Sequence[Any],
    images: Sequence[Image],
    check: Callable[[Any, Any], None],
    same: Callable[[Any, Any], bool],
) -> Any:
    """Check the rules for all stages that are called on batches, and return the results.

    ``images`` are those of the batch and become read-only. ``check`` is called with each input and its result, and ``same``
    compares two results of one input.
    """
    before = [image.copy() for image in images]
    results = _call(stage, batch, "a batch of odd sizes")
    _require(isinstance(results, list | np.ndarray), f"results are a list, got {type(results).__name__}")
    _require(len(results) == len(batch), f"there are as many results as inputs, got {len(results)} of {len(batch)}")
    _require(all(map(np.array_equal, before, images)), "inputs are left unchanged, an image was changed")
    for image in images:
        image.flags.writeable = False
    _call(stage, batch, "a batch of read-only images")
    _require(len(_call(stage, [], "an empty batch")) == 0, "an empty batch gives an empty result")
    for one, result in zip(batch, results, strict=True):
        check(one, result)
    for number, (one, result) in enumerate(zip(batch, results, strict=True)):
        alone = _call(stage, [one], f"input {number} by itself")
        _require(len(alone) == 1, f"there are as many results as inputs, got {len(alone)} of 1")
        _require(same(result, alone[0]), f"a result does not depend on the batch, that of input {number} alone differs")
    reversed_results = _call(stage, batch[::-1], "the batch in reverse")[::-1]
    _require(
        all(map(same, results, reversed_results)), "results are in the order of the inputs, a reversed batch differs"
    )
    return results


def _check_box(box: Box, width: int, height: int) -> None:
    _require(isinstance(box, Box), f"a box is a Box, got {type(box).__name__}")
    _require(all(isinstance(corner, int) for corner in box.corners), f"a box has int corners, got {box.corners!r}")
    within = box.x2 <= width and box.y2 <= height
    _require(within, f"a box lies within its photo of {width}x{height}, got {box.corners}")


def _example_detections(image: Image) -> list[Detection]:
    """Return the fake detector's detections, the whole photo and two corner pixels; some have masks."""
    height, width, _ = image.shape
    whole = Box(0, 0, width, height)
    corner = Box(width - 1, height - 1, width, height)
    return [
        *FakeDetector()([image])[0],
        Detection("top", 1.0, whole),
        Detection("top", 0.5, whole, np.zeros((height, width), np.bool_)),
        Detection("dress", 0.5, Box(0, 0, 1, 1)),
        Detection("dress", 0.0, corner, np.ones((1, 1), np.bool_)),
    ]


def _check_crop(crop: Any, detection: Detection, image: Image) -> None:
    _require(isinstance(crop, Crop), f"a crop is a Crop, got {type(crop).__name__}")
    height, width, _ = image.shape
    pixels, box, inner = crop.image, crop.box, detection.box
    sound = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0 and pixels.dtype == np.uint8
    _require(sound, f"a crop is (h, w, 3) uint8 of at least one pixel, got {pixels.dtype} {pixels.shape}")
    _check_box(box, width, height)
    covers = box.x1 <= inner.x1 and box.y1 <= inner.y1 and box.x2 >= inner.x2 and box.y2 >= inner.y2
    _require(covers, f"a crop covers its detection's box {inner.corners}, got {box.corners}")


def _check_length(index: Index, stored: int) -> None:
    _require(len(index) == stored, f"len counts the stored rows, {stored}, got {len(index)}")


def _check_empty(index: Index, vectors: Vectors) -> None:
    _check_length(index, 0)
    _require((_search(index, vectors[:3], 4).rows == -1).all(), "an empty index has no neighbors, rows are -1")
    _search(index, vectors[:0], 4)
    index.add(np.empty(0, np.int64), vectors[:0])
    index.remove(np.empty(0, np.int64))
    _check_length(index, 0)


def _check_wrong_vectors(index: Index, good: Vectors) -> None:
    rows = np.array([1, 2], np.int64)
    for name, change in _WRONG_VECTORS.items():
        vectors = change(good).astype(np.float32)
        _require_refusal(f"{name}, added,", index.add, rows, vectors)
        _require_refusal(f"{name}, as a query,", index.search, vectors, 3)
    _require_refusal("fewer rows than vectors", index.add, rows[:1], good)
    _require_refusal("the same row twice at once", index.add, rows[[0, 0]], good)
    _require_refusal("k of 0", index.search, good, 0)
    _check_length(index, 0)


def _check_wrong_rows(index: Index, rows: Rows, vectors: Vectors) -> None:
    size = len(index)
    _require_refusal("a stored row, added again,", index.add, np.array([_UNUSED_ROW, rows[0]]), vectors[:2])
    _require(len(index) == size, f"a refused addition changes nothing, len was {size}, got {len(index)}")
    _require_refusal("an unknown row, removed,", index.remove, np.array([rows[0], _UNUSED_ROW]))
    _require(len(index) == size, f"a refused removal changes nothing, len was {size}, got {len(index)}")
    nearest = _search(index, vectors[:1], 1).rows[0, 0]
    _require(nearest == rows[0], f"a refusal changes nothing, row {rows[0]} is no longer found by its vector")


def _check_search(index: Index, rows: Rows, vectors: Vectors, queries: Vectors, min_recall: float) -> None:
    """Check that searches agree with brute force and each vector finds itself; there are four queries per neighbor."""
    k = len(queries) // 4
    result = _search(index, queries, k)
    every = queries @ vectors.T
    known = np.isin(result.rows, [*rows, -1])
    _require(known.all(), f"rows are those that were added, got {result.rows[~known][:5].tolist()}")
    places = {row: place for place, row in enumerate(rows.tolist())} | {-1: 0}
    true = np.take_along_axis(every, np.vectorize(places.__getitem__)(result.rows), axis=1)
    error = np.where(result.rows == -1, 0, abs(result.similarities - true)).max()
    _require(error < 1e-3, f"a similarity is the inner product, off by {error:.4f}")
    twice = any(len(set(row)) < len(row) and -1 not in row for row in result.rows.tolist())
    _require(not twice, "a query finds no row twice")
    nearest = rows[np.argsort(-every, axis=1)[:, :k]]
    recall = np.mean([len(set(ours) & set(best)) / k for ours, best in zip(result.rows, nearest, strict=True)])
    _require(recall >= min_recall, f"at least {min_recall} of the nearest are found, got {recall:.3f}")
    itself = _search(index, vectors, 1)
    same = itself.rows[:, 0] == rows
    _require(same.mean() >= min_recall, f"a vector is its own nearest neighbor, {same.mean():.3f} of them are")
    _require((itself.similarities[same] > 0.999).all(), "a vector has similarity 1 to itself")


def _check_removal(index: Index, rows: Rows, vectors: Vectors, queries: Vectors, min_recall: float) -> None:
    """Remove the rows nearest to the queries, and add them again in another order."""
    count = len(queries)
    _with_copies(index.remove, rows[:count])
    _check_length(index, len(rows) - count)
    for k in (count // 4, len(rows)):
        back = np.isin(_search(index, queries, k).rows, rows[:count])
        _require(not back.any(), "a removed row never comes back, a search returned one")
    _check_search(index, rows[count:], vectors[count:], queries, min_recall)
    _require_refusal("a removed row, removed again,", index.remove, rows[:1])
    reversed_rows = rows[:count][::-1].copy()
    _with_copies(index.add, reversed_rows, vectors[:count])
    _require(len(index) == len(rows), f"a removed row can be added again, len should be {len(rows)}, got {len(index)}")
    _check_search(index, np.concatenate([reversed_rows, rows[count:]]), vectors, queries, min_recall)


def _require_refusal(what: str, call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"stage protocol: {what} raises a ValueError, got {error!r}") from error
    raise AssertionError(f"stage protocol: {what} raises a ValueError, it was accepted")


def _with_copies(call: Callable[..., object], *arrays: NDArray[np.generic]) -> Any:
    """Call with writable copies, which must stay unchanged, and clear them afterwards, so that the index must copy them."""
    copies = [array.copy() for array in arrays]
    result = call(*copies)
    _require(all(map(np.array_equal, copies, arrays)), "inputs are left unchanged, an array was changed")
    for array in copies:
        array[...] = 0
    return result


def _search(index: Index, queries: Vectors, k: int) -> Neighbors:
    """Search, and check the shape, the types and the order of the result."""
    result: Neighbors = _with_copies(lambda copies: index.search(copies, k), queries)
    _require(isinstance(result, Neighbors), f"search returns Neighbors, got {type(result).__name__}")
    _check_array("rows", result.rows, (len(queries), k), np.int64)
    _check_array("similarities", result.similarities, (len(queries), k), np.float32)
    falling = result.similarities[:, 1:] <= result.similarities[:, :-1]
    _require(falling.all(), "neighbors are ordered by falling similarity")
    padded = (result.rows == -1) == np.isneginf(result.similarities)
    _require(padded.all(), "where a row is missing, and nowhere else, row is -1 and similarity -inf")
    return result


def _unit(vectors: NDArray[np.floating]) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def example_images() -> list[Image]:
    """Return photos of odd sizes: shapes on white, one pixel, one row, one column, all white, all black, noise."""
    plain = np.full((64, 48, 3), 255, np.uint8)
    shapes = plain.copy()
    shapes[8:56, 4:20] = (200, 30, 30)
    shapes[20:30, 24:44] = (20, 40, 160)
    shapes[25:30, 30:38] = 255
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    return [
        shapes,
        np.full((1, 1, 3), 90, np.uint8),
        np.repeat(ramp[None, :, None], 3, axis=2),
        np.repeat(ramp[:, None, None], 3, axis=2),
        plain,
        np.zeros((33, 57, 3), np.uint8),
        noise,
        np.ascontiguousarray(shapes.transpose(1, 0, 2)),
    ]


class FakeDetector:
    """Detects what is not white, one detection per run of columns, by the share of its box that it fills.

    >>> [garment.box for garment in FakeDetector()(example_images()[:1])[0]]
    [Box(x1=4, y1=8, x2=20, y2=56), Box(x1=24, y1=20, x2=44, y2=30)]
    """

    labels: tuple[str, ...] = ("top", "dress")
    input_px: int | None = None

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Return the detections of each image by falling score."""
        return [sorted(self._find(image), key=lambda detection: -detection.score) for image in images]

    def _find(self, image: Image) -> list[Detection]:
        coloured: NDArray[np.bool_] = np.any(image < 250, axis=2)
        columns = np.concatenate([[False], coloured.any(axis=0), [False]])
        starts_and_ends = np.flatnonzero(columns[1:] != columns[:-1]).reshape(-1, 2)
        return [self._detection(coloured, int(x1), int(x2)) for x1, x2 in starts_and_ends]

    def _detection(self, coloured: NDArray[np.bool_], x1: int, x2: int) -> Detection:
        rows = np.flatnonzero(coloured[:, x1:x2].any(axis=1))
        box = Box(x1, int(rows[0]), x2, int(rows[-1]) + 1)
        mask = coloured[box.slices].copy()
        return Detection("dress" if box.height > box.width else "top", float(mask.mean()), box, mask)


_FAKE_WORDS: Final = {"red": (200, 30, 30), "green": (20, 150, 40), "blue": (30, 40, 190), "black": (20, 20, 20)}


class FakeEmbedder:
    """Embeds an image as sixteen mean colors and a constant: images that look alike are close.

    A text is embedded as an image of the first colour that it names: red, green, blue or black.
    """

    dim: int = 49
    input_px: int = 16
    fingerprint: str = "fake mean colours"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """Return a unit row per image."""
        vectors = np.array([self._embed(image) for image in images], np.float32)
        return vectors.reshape(len(images), self.dim)

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Return a unit row per text.

        Raises:
            ValueError: a text names no colour.
        """
        named = [next((word for word in text.split() if word in _FAKE_WORDS), None) for text in texts]
        if None in named:
            raise ValueError(f"no word of {texts[named.index(None)][:50]!r} is known")
        return self([np.full((16, 16, 3), _FAKE_WORDS[word], np.uint8) for word in named if word])

    def _embed(self, image: Image) -> NDArray[np.float32]:
        height, width, _ = image.shape
        grid = np.arange(16)
        small = image[np.ix_(grid * height // 16, grid * width // 16)] / 255 - 0.5
        means = small.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
        vector = np.append(means.ravel(), 0.5)
        unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit
