"""The law of stages as checks, for our stages and anyone's, and small fakes to test against.

Each check calls a stage in many ways and raises an ``AssertionError`` that says which clause is broken and how.
It needs numpy alone: call it from any test framework, or from none. ::

    from stages.testing import check_detector

    def test_my_detector():
        check_detector(MyDetector())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from stages._fakes import FakeCropper, FakeDetector, FakeEmbedder, FakeIndex, example_images
from stages._index_law import check_index
from stages.protocols import Cropper, Detector, Embedder
from stages.types import Box, Crop, Detection, Image, Vectors

__all__ = [
    "FakeCropper", "FakeDetector", "FakeEmbedder", "FakeIndex",
    "check_cropper", "check_detector", "check_embedder", "check_index", "example_images",
]  # fmt: skip

Stage: TypeAlias = Callable[[Sequence[Any]], Any]


def check_detector(detector: Detector, images: Sequence[Image] | None = None, score_tolerance: float = 1e-3) -> None:
    """Prove the law on a detector: attributes, batches, boxes, labels, scores, inputs.

    Args:
        detector: the stage.
        images: photos to call it with, :func:`example_images` if not given.
        score_tolerance: how far a score may differ between a photo in a batch and by itself.

    Raises:
        AssertionError: a clause is broken.
    """
    labels, input_px = detector.labels, detector.input_px
    texts = isinstance(labels, tuple) and all(isinstance(label, str) and label for label in labels)
    _law(texts and len(set(labels)) == len(labels) > 0, f"labels is a tuple of distinct names, got {labels!r}")
    _law(input_px is None or _is_positive(input_px), f"input_px is None or at least 1, got {input_px!r}")
    photos = [image.copy() for image in images or example_images()]
    results = _batch(detector, photos, photos)
    for image, found in zip(photos, results, strict=True):
        _check_detections(detector, image, found)

    def same(ours: list[Detection], theirs: list[Detection]) -> bool:
        return len(ours) == len(theirs) and all(
            any(_alike(one, other, score_tolerance) for other in theirs) for one in ours
        )

    _check_order(detector, photos, results, same)


def check_cropper(cropper: Cropper, images: Sequence[Image] | None = None) -> None:
    """Prove the law on a cropper: batches, pixels, boxes, photos without detections, inputs.

    It is given detections with masks and without, of the whole photo and of its corner pixels.

    Args:
        cropper: the stage.
        images: photos to call it with, :func:`example_images` if not given.

    Raises:
        AssertionError: a clause is broken.
    """
    _check_fingerprint(cropper.fingerprint)
    photos = [image.copy() for image in images or example_images()]
    pairs = [(image, _example_detections(image)) for image in photos]
    pairs += [(image, []) for image in photos[:1]]

    def crop(batch: Sequence[tuple[Image, list[Detection]]]) -> list[list[Crop]]:
        masks = [found.mask.copy() for _, some in batch for found in some if found.mask is not None]
        crops = cropper([image for image, _ in batch], [some for _, some in batch])
        after = [found.mask for _, some in batch for found in some if found.mask is not None]
        _law(all(map(np.array_equal, masks, after)), "inputs are left untouched, a mask was changed")
        return crops

    results = _batch(crop, pairs, photos)
    for (image, detections), crops in zip(pairs, results, strict=True):
        _law(isinstance(crops, list), f"a photo's crops are a list, got {type(crops).__name__}")
        _law(len(crops) == len(detections), f"one crop per detection, got {len(crops)} for {len(detections)}")
        for one, detection in zip(crops, detections, strict=True):
            _check_crop(one, detection, image)

    def same(ours: list[Crop], theirs: list[Crop]) -> bool:
        return all(
            one.box == other.box and np.array_equal(one.image, other.image)
            for one, other in zip(ours, theirs, strict=True)
        )

    _check_order(crop, pairs, results, same)


def check_embedder(embedder: Embedder, images: Sequence[Image] | None = None) -> None:
    """Prove the law on an embedder: attributes, batches, unit rows, sameness, views, inputs.

    Args:
        embedder: the stage.
        images: images to call it with, :func:`example_images` if not given.

    Raises:
        AssertionError: a clause is broken.
    """
    _check_fingerprint(embedder.fingerprint)
    _law(_is_positive(embedder.dim), f"dim is at least 1, got {embedder.dim!r}")
    _law(_is_positive(embedder.input_px), f"input_px is at least 1, got {embedder.input_px!r}")
    pictures = [image.copy() for image in images or example_images()]

    def embed(batch: Sequence[Image]) -> Vectors:
        vectors = embedder(batch)
        wanted = (len(batch), embedder.dim)
        shape, dtype = getattr(vectors, "shape", None), getattr(vectors, "dtype", None)
        _law(isinstance(vectors, np.ndarray), f"vectors are a numpy array, got {type(vectors).__name__}")
        _law(shape == wanted and dtype == np.float32, f"wanted float32 {wanted}, got {dtype} {shape}")
        return vectors

    vectors = _batch(embed, pictures, pictures)
    norms = np.linalg.norm(vectors, axis=1)
    _law(bool(np.isfinite(vectors).all()), "vectors are finite")
    _law(
        bool((abs(norms - 1) < 1e-3).all()), f"vectors are of norm 1, got norms {norms.min():.4f} to {norms.max():.4f}"
    )

    def same(ours: Vectors, theirs: Vectors) -> bool:
        return float(ours @ theirs) > 0.999

    _check_order(embed, pictures, vectors, same)
    again = _call(embed, pictures, "the same batch again")
    _law(all(map(same, vectors, again)), "the same images give the same vectors, a second call differs")
    mirrored = [image[:, ::-1] for image in pictures]
    views = _call(embed, mirrored, "views with strides of their own")
    copies = _call(embed, [image.copy() for image in mirrored], "mirrored images")
    _law(all(map(same, views, copies)), "a view gives the vector of its copy: crops are views")


def _law(holds: bool, clause: str) -> None:
    if not holds:
        raise AssertionError(f"the law of stages: {clause}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_fingerprint(fingerprint: object) -> None:
    _law(isinstance(fingerprint, str) and bool(fingerprint), f"fingerprint is a text, got {fingerprint!r}")


def _call(stage: Stage, batch: Sequence[Any], what: str) -> Any:
    try:
        return stage(batch)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"the law of stages: any batch is taken, {what} raised {error!r}") from error


def _batch(stage: Stage, batch: Sequence[Any], images: Sequence[Image]) -> Any:
    """One result per input, of a batch whose images are then found untouched and made read-only."""
    before = [image.copy() for image in images]
    results = _call(stage, batch, "a batch of odd sizes")
    _law(isinstance(results, list | np.ndarray), f"results come as a list, got {type(results).__name__}")
    _law(len(results) == len(batch), f"as many results as inputs, got {len(results)} for {len(batch)}")
    _law(all(map(np.array_equal, before, images)), "inputs are left untouched, an image was changed")
    for image in images:
        image.flags.writeable = False
    _call(stage, batch, "a batch of read-only images")
    nothing = _call(stage, [], "an empty batch")
    _law(len(nothing) == 0, f"an empty batch gives an empty result, got {len(nothing)} results")
    return results


def _check_order(stage: Stage, batch: Sequence[Any], results: Any, same: Callable[[Any, Any], bool]) -> None:
    """Inputs do not touch one another: alone or in another order, each gives what it gave."""
    for number, one in enumerate(batch):
        alone = _call(stage, [one], f"input {number} by itself")
        _law(len(alone) == 1, f"as many results as inputs, got {len(alone)} for 1")
        _law(same(results[number], alone[0]), f"a batch gives what each input gives by itself, input {number} differs")
    backwards = _call(stage, batch[::-1], "the batch in reverse")
    _law(all(map(same, results, backwards[::-1])), "results are in the order of the inputs, a reversed batch differs")


def _check_detections(detector: Detector, image: Image, found: object) -> None:
    height, width, _ = image.shape
    _law(isinstance(found, list), f"a photo's detections are a list, got {type(found).__name__}")
    scores = []
    for one in found if isinstance(found, list) else []:
        _law(isinstance(one, Detection), f"wanted a Detection, got {type(one).__name__}")
        _law(one.label in detector.labels, f"every label is one of labels, got {one.label!r}")
        _law(isinstance(one.score, float), f"a score is a float, got {type(one.score).__name__}")
        _check_box(one.box, width, height)
        scores.append(one.score)
    falling = all(first >= second for first, second in pairwise(scores))
    _law(falling, f"detections come by falling score, got {scores}")


def _check_box(box: Box, width: int, height: int) -> None:
    _law(isinstance(box, Box), f"wanted a Box, got {type(box).__name__}")
    _law(all(isinstance(corner, int) for corner in box.corners), f"a box has int corners, got {box.corners!r}")
    _law(box.x2 <= width and box.y2 <= height, f"a box lies within its photo of {width}x{height}, got {box.corners}")


def _alike(one: Detection, other: Detection, score_tolerance: float) -> bool:
    """The same garment: rounding may move a rim by a pixel."""
    corners = zip(one.box.corners, other.box.corners, strict=True)
    near = all(abs(ours - theirs) <= 1 for ours, theirs in corners)
    masked = (one.mask is None) == (other.mask is None)
    return near and masked and one.label == other.label and abs(one.score - other.score) <= score_tolerance


def _example_detections(image: Image) -> list[Detection]:
    """The fake detector's, and the whole photo and two corner pixels, of which some have masks."""
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
        raise AssertionError(f"the law of stages: wanted a Crop, got {type(crop).__name__}")  # noqa: TRY004
    height, width, _ = image.shape
    pixels, box, inner = crop.image, crop.box, detection.box
    shape: tuple[int, ...] = getattr(pixels, "shape", ())
    dtype = getattr(pixels, "dtype", None)
    sound = len(shape) == 3 and shape[2] == 3 and min(shape) > 0 and dtype == np.uint8
    _law(sound, f"a crop is (h, w, 3) uint8 of at least one pixel, got {dtype} {shape}")
    _check_box(box, width, height)
    covers = box.x1 <= inner.x1 and box.y1 <= inner.y1 and box.x2 >= inner.x2 and box.y2 >= inner.y2
    _law(covers, f"a crop covers its detection's box {inner.corners}, got {box.corners}")
