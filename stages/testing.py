"""Checks that a stage keeps its protocol, for our stages and yours, and a fake detector and embedder to test against.

Each check calls a stage in many ways and raises an ``AssertionError`` that says what is wrong. It needs nothing but numpy, and
works in any test framework or without one. ::

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
    "FakeDetector", "FakeEmbedder",
    "check_cropper", "check_detector", "check_embedder", "check_index", "example_images",
]  # fmt: skip

_UNUSED_ROW = 10_000_019

Stage: TypeAlias = Callable[[Sequence[Any]], Any]


def check_detector(detector: Detector, images: Sequence[Image] | None = None, score_tolerance: float = 1e-3) -> None:
    """Check a detector: attributes, batches, boxes, labels, scores, inputs.

    Args:
        detector: the stage.
        images: photos to call it with; None: :func:`example_images`.
        score_tolerance: how much the score of a photo in a batch may differ from that of the photo alone.

    Raises:
        AssertionError: it breaks its protocol.
    """
    labels, input_px = detector.labels, detector.input_px
    texts = isinstance(labels, tuple) and all(isinstance(label, str) and label for label in labels)
    _require(texts and len(set(labels)) == len(labels) > 0, f"labels is a tuple of distinct names, got {labels!r}")
    _require(input_px is None or _is_positive(input_px), f"input_px is None or at least 1, got {input_px!r}")
    photos = [image.copy() for image in images or example_images()]
    results = _batch(detector, photos, photos)
    for image, detections in zip(photos, results, strict=True):
        _check_detections(detector, image, detections)

    def same(ours: list[Detection], theirs: list[Detection]) -> bool:
        return len(ours) == len(theirs) and all(
            any(_alike(one, other, score_tolerance) for other in theirs) for one in ours
        )

    _check_order(detector, photos, results, same)


def check_cropper(cropper: Cropper, images: Sequence[Image] | None = None) -> None:
    """Check a cropper: batches, pixels, boxes, photos without detections, inputs.

    Its detections have masks or none, and cover the whole photo, parts of it, or a corner pixel.

    Args:
        cropper: the stage.
        images: photos to call it with; None: :func:`example_images`.

    Raises:
        AssertionError: it breaks its protocol.
    """
    _check_fingerprint(cropper.fingerprint)
    photos = [image.copy() for image in images or example_images()]
    pairs = [(image, _example_detections(image)) for image in photos]
    pairs += [(image, []) for image in photos[:1]]

    def crop(batch: Sequence[tuple[Image, list[Detection]]]) -> list[list[Crop]]:
        masks = [one.mask.copy() for _, ones in batch for one in ones if one.mask is not None]
        crops = cropper([image for image, _ in batch], [ones for _, ones in batch])
        after = [one.mask for _, ones in batch for one in ones if one.mask is not None]
        _require(all(map(np.array_equal, masks, after)), "inputs are not changed, a mask was")
        return crops

    results = _batch(crop, pairs, photos)
    for (image, detections), crops in zip(pairs, results, strict=True):
        _require(isinstance(crops, list), f"a photo's crops are a list, got {type(crops).__name__}")
        _require(len(crops) == len(detections), f"one crop per detection, got {len(crops)} for {len(detections)}")
        for one, detection in zip(crops, detections, strict=True):
            _check_crop(one, detection, image)

    def same(ours: list[Crop], theirs: list[Crop]) -> bool:
        return all(
            one.box == other.box and np.array_equal(one.image, other.image)
            for one, other in zip(ours, theirs, strict=True)
        )

    _check_order(crop, pairs, results, same)


def check_embedder(embedder: Embedder, images: Sequence[Image] | None = None) -> None:
    """Check an embedder: attributes, batches, unit rows, reproducibility, views, inputs.

    Args:
        embedder: the stage.
        images: images to call it with; None: :func:`example_images`.

    Raises:
        AssertionError: it breaks its protocol.
    """
    _check_fingerprint(embedder.fingerprint)
    _require(_is_positive(embedder.dim), f"dim is at least 1, got {embedder.dim!r}")
    _require(_is_positive(embedder.input_px), f"input_px is at least 1, got {embedder.input_px!r}")
    pictures = [image.copy() for image in images or example_images()]

    def embed(batch: Sequence[Image]) -> Vectors:
        vectors = embedder(batch)
        wanted = (len(batch), embedder.dim)
        shape, dtype = getattr(vectors, "shape", None), getattr(vectors, "dtype", None)
        _require(isinstance(vectors, np.ndarray), f"vectors are a numpy array, got {type(vectors).__name__}")
        _require(shape == wanted and dtype == np.float32, f"wanted float32 {wanted}, got {dtype} {shape}")
        return vectors

    vectors = _batch(embed, pictures, pictures)
    norms = np.linalg.norm(vectors, axis=1)
    _require(bool(np.isfinite(vectors).all()), "vectors are finite")
    _require(
        bool((abs(norms - 1) < 1e-3).all()), f"vectors are of norm 1, got norms {norms.min():.4f} to {norms.max():.4f}"
    )

    def same(ours: Vectors, theirs: Vectors) -> bool:
        return float(ours @ theirs) > 0.999

    _check_order(embed, pictures, vectors, same)
    again = _call(embed, pictures, "the same batch again")
    _require(all(map(same, vectors, again)), "the same images give the same vectors, a second call differs")
    mirrored = [image[:, ::-1] for image in pictures]
    views = _call(embed, mirrored, "views with unusual strides")
    copies = _call(embed, [image.copy() for image in mirrored], "mirrored images")
    _require(all(map(same, views, copies)), "a view gives the vector of its copy: crops are views")


def check_index(
    make_index: Callable[[int], Index], dim: int = 16, size: int = 200, k: int = 10, min_recall: float = 0.95
) -> None:
    """Check an index against the protocol: empty, filled, thinned out, filled again, and with wrong input.

    Args:
        make_index: makes an empty index of a given dim.
        dim: the width of the vectors to try, at least 2.
        size: how many vectors to try, at least 6 * k.
        k: how many neighbours to ask for.
        min_recall: the share of the true k nearest that must be found; 1.0 for an exact index.

    Raises:
        AssertionError: the index breaks the protocol.
        ValueError: there are too few dimensions or vectors to tell.
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
    _require(len(index) == size, f"len counts live rows, {size} were added, got {len(index)}")
    _check_wrong_rows(index, rows, vectors)
    _check_search(index, rows, vectors, queries, min_recall)
    padded = _search(index, queries[:3], size + 3).rows[:, size:]
    _require((padded == -1).all(), f"beyond the {size} rows there are, rows are -1")
    _check_removal(index, rows, vectors, queries, min_recall)


def check_text_embedder(embedder: TextEmbedder, texts: Sequence[str] = ("red dress", "black shoes")) -> None:
    """Check what embeds texts: unit rows, batches, reproducibility, texts that say nothing.

    Args:
        embedder: the stage.
        texts: two or more that it understands.

    Raises:
        AssertionError: it breaks its protocol.
    """
    vectors, alone = embedder.embed_text(list(texts)), [embedder.embed_text([text])[0] for text in texts]
    wanted = (len(texts), embedder.dim)
    _require(vectors.shape == wanted and vectors.dtype == np.float32, f"wanted float32 {wanted}, got {vectors.shape}")
    _require(embedder.embed_text([]).shape == (0, embedder.dim), "no texts give no rows")
    _require(bool((abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3).all()), "vectors are of norm 1")
    _require(bool(np.allclose(vectors, alone, atol=1e-4)), "a text's vector does not depend on the others")
    try:
        embedder.embed_text([""])
    except ValueError:
        return
    _require(False, "an empty text is a ValueError")


def _require(holds: bool | np.bool_, clause: str) -> None:
    if not holds:
        raise AssertionError(f"stage protocol: {clause}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_fingerprint(fingerprint: object) -> None:
    _require(isinstance(fingerprint, str) and bool(fingerprint), f"fingerprint is a text, got {fingerprint!r}")


def _call(stage: Stage, batch: Sequence[Any], what: str) -> Any:
    try:
        return stage(batch)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"stage protocol: any batch is taken, {what} raised {error!r}") from error


def _batch(stage: Stage, batch: Sequence[Any], images: Sequence[Image]) -> Any:
    """Call a stage on a batch, check its images are unchanged, and make them read-only for what follows."""
    before = [image.copy() for image in images]
    results = _call(stage, batch, "a batch of odd sizes")
    _require(isinstance(results, list | np.ndarray), f"results come as a list, got {type(results).__name__}")
    _require(len(results) == len(batch), f"as many results as inputs, got {len(results)} for {len(batch)}")
    _require(all(map(np.array_equal, before, images)), "inputs are not changed, an image was")
    for image in images:
        image.flags.writeable = False
    _call(stage, batch, "a batch of read-only images")
    nothing = _call(stage, [], "an empty batch")
    _require(len(nothing) == 0, f"an empty batch gives an empty result, got {len(nothing)} results")
    return results


def _check_order(stage: Stage, batch: Sequence[Any], results: Any, same: Callable[[Any, Any], bool]) -> None:
    """Check that the result of an input depends neither on the rest of the batch nor on its place."""
    for number, one in enumerate(batch):
        alone = _call(stage, [one], f"input {number} by itself")
        _require(len(alone) == 1, f"as many results as inputs, got {len(alone)} for 1")
        _require(
            same(results[number], alone[0]), f"a batch gives what each input gives by itself, input {number} differs"
        )
    backwards = _call(stage, batch[::-1], "the batch in reverse")
    _require(
        all(map(same, results, backwards[::-1])), "results are in the order of the inputs, a reversed batch differs"
    )


def _check_detections(detector: Detector, image: Image, detections: object) -> None:
    height, width, _ = image.shape
    _require(isinstance(detections, list), f"a photo's detections are a list, got {type(detections).__name__}")
    scores = []
    for one in detections if isinstance(detections, list) else []:
        _require(isinstance(one, Detection), f"wanted a Detection, got {type(one).__name__}")
        _require(one.label in detector.labels, f"every label is one of labels, got {one.label!r}")
        _require(isinstance(one.score, float), f"a score is a float, got {type(one.score).__name__}")
        _check_box(one.box, width, height)
        scores.append(one.score)
    falling = all(first >= second for first, second in pairwise(scores))
    _require(falling, f"detections come by falling score, got {scores}")


def _check_box(box: Box, width: int, height: int) -> None:
    _require(isinstance(box, Box), f"wanted a Box, got {type(box).__name__}")
    _require(all(isinstance(corner, int) for corner in box.corners), f"a box has int corners, got {box.corners!r}")
    _require(
        box.x2 <= width and box.y2 <= height, f"a box lies within its photo of {width}x{height}, got {box.corners}"
    )


def _alike(one: Detection, other: Detection, score_tolerance: float) -> bool:
    """Return whether two detections are the same but for rounding, which may move an edge by a pixel."""
    corners = zip(one.box.corners, other.box.corners, strict=True)
    near = all(abs(ours - theirs) <= 1 for ours, theirs in corners)
    masked = (one.mask is None) == (other.mask is None)
    return near and masked and one.label == other.label and abs(one.score - other.score) <= score_tolerance


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


def _check_crop(crop: object, detection: Detection, image: Image) -> None:
    if not isinstance(crop, Crop):
        raise AssertionError(f"stage protocol: wanted a Crop, got {type(crop).__name__}")  # noqa: TRY004
    height, width, _ = image.shape
    pixels, box, inner = crop.image, crop.box, detection.box
    shape: tuple[int, ...] = getattr(pixels, "shape", ())
    dtype = getattr(pixels, "dtype", None)
    sound = len(shape) == 3 and shape[2] == 3 and min(shape) > 0 and dtype == np.uint8
    _require(sound, f"a crop is (h, w, 3) uint8 of at least one pixel, got {dtype} {shape}")
    _check_box(box, width, height)
    covers = box.x1 <= inner.x1 and box.y1 <= inner.y1 and box.x2 >= inner.x2 and box.y2 >= inner.y2
    _require(covers, f"a crop covers its detection's box {inner.corners}, got {box.corners}")


def _check_empty(index: Index, vectors: Vectors) -> None:
    _require(len(index) == 0, f"a new index is empty, got len {len(index)}")
    _require((_search(index, vectors[:3], 4).rows == -1).all(), "an empty index has no neighbours, rows are -1")
    none = vectors[:0]
    _search(index, none, 4)
    index.add(np.empty(0, np.int64), none)
    index.remove(np.empty(0, np.int64))
    _require(len(index) == 0, "adding no vectors adds none")


def _check_wrong_vectors(index: Index, good: Vectors) -> None:
    """Wrong vectors are refused as a whole, by add and by search."""
    rows = np.array([1, 2], np.int64)
    wrong = {
        "a NaN in a vector": good * np.array([[1], [np.nan]]),
        "an infinity in a vector": good * np.array([[1], [np.inf]]),
        "a zero vector": good * np.array([[1], [0]]),
        "a vector not of norm 1": good * np.array([[1], [2]]),
        "a vector too wide": np.pad(good, ((0, 0), (0, 1))),
        "a vector too narrow": _unit(good[:, :-1]),
        "a single vector without its row": good[0],
    }
    for name, vectors in wrong.items():
        _require_refusal(f"{name}, added,", index.add, rows, vectors.astype(np.float32))
        _require_refusal(f"{name}, as a query,", index.search, vectors.astype(np.float32), 3)
    _require_refusal("fewer rows than vectors", index.add, rows[:1], good)
    _require_refusal("the same row twice at once", index.add, rows[[0, 0]], good)
    _require_refusal("k of 0", index.search, good, 0)
    _require(len(index) == 0, f"what is refused is not stored, got len {len(index)}")


def _check_wrong_rows(index: Index, rows: NDArray[np.int64], vectors: Vectors) -> None:
    size = len(index)
    _require_refusal("a row that is there, added again,", index.add, np.array([_UNUSED_ROW, rows[0]]), vectors[:2])
    _require(len(index) == size, f"a refused add changes nothing, len was {size}, got {len(index)}")
    _require_refusal("a row that is not there, removed,", index.remove, np.array([rows[0], _UNUSED_ROW]))
    _require(len(index) == size, f"a refused removal changes nothing, len was {size}, got {len(index)}")
    nearest = _search(index, vectors[:1], 1).rows[0, 0]
    _require(nearest == rows[0], f"what is refused changes nothing, row {rows[0]} is no longer found by its vector")


def _check_search(index: Index, rows: NDArray[np.int64], vectors: Vectors, queries: Vectors, min_recall: float) -> None:
    """Searches agree with brute force, four queries for each neighbour wanted, and each vector finds itself."""
    k = len(queries) // 4
    found = _search(index, queries, k)
    every = queries @ vectors.T
    nearest = rows[np.argsort(-every, axis=1)[:, :k]]
    known = np.isin(found.rows, [*rows, -1])
    _require(known.all(), f"rows are those that were added, got {found.rows[~known][:5].tolist()}")
    places = {row: place for place, row in enumerate(rows.tolist())} | {-1: 0}
    true = np.take_along_axis(every, np.vectorize(places.__getitem__)(found.rows), axis=1)
    error = np.where(found.rows == -1, 0, abs(found.similarities - true)).max()
    _require(error < 1e-3, f"a similarity is the inner product, off by {error:.4f}")
    twice = any(len(set(row)) < len(row) and -1 not in row for row in found.rows.tolist())
    _require(not twice, "no row is found twice by a query")
    recall = np.mean([len(set(ours) & set(best)) / k for ours, best in zip(found.rows, nearest, strict=True)])
    _require(recall >= min_recall, f"at least {min_recall} of the nearest are found, got {recall:.3f}")
    itself = _search(index, vectors, 1)
    same = itself.rows[:, 0] == rows
    _require(same.mean() >= min_recall, f"a vector is its own nearest neighbour, {same.mean():.3f} of them are")
    _require((itself.similarities[same] > 0.999).all(), "a vector is as similar to itself as 1")


def _check_removal(
    index: Index, rows: NDArray[np.int64], vectors: Vectors, queries: Vectors, min_recall: float
) -> None:
    """The rows nearest to the queries are removed, and added again in another order."""
    count = len(queries)
    _with_copies(index.remove, rows[:count])
    left = len(rows) - count
    _require(len(index) == left, f"len counts live rows, wanted {left}, got {len(index)}")
    for width in (count // 4, len(rows)):
        back = np.isin(_search(index, queries, width).rows, rows[:count])
        _require(not back.any(), "a removed row never comes back, search found one")
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
        raise AssertionError(f"stage protocol: {what} is a ValueError, got {error!r}") from error
    raise AssertionError(f"stage protocol: {what} is a ValueError, it was taken")


def _with_copies(call: Callable[..., object], *arrays: NDArray[np.generic]) -> object:
    """Call with writable copies, which must stay as they are, and be copied where they are kept."""
    given = [array.copy() for array in arrays]
    result = call(*given)
    _require(all(map(np.array_equal, given, arrays)), "inputs are left untouched, an array was changed")
    for array in given:
        array[...] = 0
    return result


def _search(index: Index, queries: Vectors, k: int) -> Neighbors:
    """Search, and check the shape, the types and the order of the answer."""
    found = _with_copies(lambda given: index.search(given, k), queries)
    if not isinstance(found, Neighbors):
        raise AssertionError(f"stage protocol: search gives Neighbors, got {type(found).__name__}")  # noqa: TRY004
    wanted = (len(queries), k)
    for name, array, dtype in ("rows", found.rows, np.int64), ("similarities", found.similarities, np.float32):
        fits = array.shape == wanted and array.dtype == dtype
        _require(fits, f"{name} are {np.dtype(dtype)} {wanted}, got {array.dtype} {array.shape}")
    falling = found.similarities[:, 1:] <= found.similarities[:, :-1]
    _require(falling.all(), "neighbours come by falling similarity")
    padded = (found.rows == -1) == np.isneginf(found.similarities)
    _require(padded.all(), "where there is no row, row is -1 and similarity -inf, and nowhere else")
    return found


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
