"""The types that cross stage boundaries: numpy arrays and frozen dataclasses; torch stays inside a stage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""``(h, w, 3)`` uint8 RGB, upright; read by :mod:`stages.images`."""

Mask: TypeAlias = NDArray[np.bool_]
"""``(box.height, box.width)`` bool: a mask covers only its box."""

Vectors: TypeAlias = NDArray[np.float32]
"""``(n, dim)`` float32, one unit row per image; similarity is the inner product, in [-1, 1]."""

LABELS: tuple[str, ...] = (
    "outerwear", "top", "dress", "skirt", "pants", "shorts", "shoes", "bag", "hat", "eyewear", "scarf", "belt", "hosiery",
)  # fmt: skip
"""The labels of the shipped detectors, in the order of their class indices from 1; see also :mod:`stages.labels`."""

WHOLE = "whole"
"""The label of a detection that covers the whole photo."""


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A rectangle of pixels, half-open: it covers ``image[y1:y2, x1:x2]``.

    Raises:
        ValueError: it is empty or has a negative corner.

    >>> Box(2, 3, 10, 5).width, Box(2, 3, 10, 5).height
    (8, 2)
    """

    x1: int
    y1: int
    x2: int
    y2: int

    def __post_init__(self) -> None:
        if not (0 <= self.x1 < self.x2 and 0 <= self.y1 < self.y2):
            raise ValueError(
                f"a box needs 0 <= x1 < x2 and 0 <= y1 < y2, got ({self.x1}, {self.y1}, {self.x2}, {self.y2});"
                " use Box.clipped to clip one to its photo"
            )

    @classmethod
    def clipped(cls, x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> Box | None:
        """Return the smallest box around real-valued corners, clipped to an image of ``width`` and ``height``.

        None if it lies outside the image, or a corner is not finite.

        >>> Box.clipped(-3.5, 1.2, 4.1, 9.0, width=8, height=6)
        Box(x1=0, y1=1, x2=5, y2=6)
        """
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            return None
        left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
        right, bottom = min(width, math.ceil(x2)), min(height, math.ceil(y2))
        return cls(left, top, right, bottom) if left < right and top < bottom else None

    @property
    def width(self) -> int:
        """In pixels, at least 1."""
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        """In pixels, at least 1."""
        return self.y2 - self.y1

    @property
    def area(self) -> int:
        """In pixels."""
        return self.width * self.height

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """``(x1, y1, x2, y2)``, as it is written to files."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index: ``image[box.slices]``."""
        return slice(self.y1, self.y2), slice(self.x1, self.x2)

    def scaled(self, before: tuple[int, int], after: tuple[int, int]) -> Box:
        """Return the box in the resized image, rounded outwards; ``before`` and ``after`` are (width, height).

        >>> Box(1, 0, 4, 3).scaled((4, 3), (15, 12))
        Box(x1=3, y1=0, x2=15, y2=12)
        """
        (width, height), (new_width, new_height) = before, after
        return Box(
            self.x1 * new_width // width,
            self.y1 * new_height // height,
            -(-self.x2 * new_width // width),
            -(-self.y2 * new_height // height),
        )

    def iou(self, other: Box) -> float:
        """Return the intersection over union with another box, in [0, 1]."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        intersection = max(0, width) * max(0, height)
        return intersection / (self.area + other.area - intersection)


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One garment in one photo.

    Raises:
        ValueError: the score is outside [0, 1], or the mask is not of the box's shape.
    """

    label: str
    score: float
    box: Box
    mask: Mask | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"a detection's score lies in [0, 1], got {self.score}")
        shape = (self.box.height, self.box.width)
        if self.mask is not None and (self.mask.shape != shape or self.mask.dtype != np.bool_):
            raise ValueError(
                f"a mask covers only its box: wanted bool {shape}, got {self.mask.dtype} {self.mask.shape};"
                " cut it with mask[box.slices]"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A detection cut out of its photo: the pixels, and the box of the photo that they cover, margin included."""

    image: Image
    box: Box


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """The nearest rows of an index for each query, best first.

    ``rows`` is ``(n, k)`` int64, ``similarities`` is ``(n, k)`` float32. Missing neighbors have row -1 and similarity -inf.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Match:
    """One catalogue item that looks like a garment, shown by its best photo.

    ``verdict`` says what the similarity means if the embedder is calibrated: same item, not sure, different.
    """

    item: str
    photo: str
    similarity: float
    label: str
    metadata: tuple[tuple[str, str], ...] = ()
    verdict: str = ""


def check_batch(images: Iterable[object]) -> None:
    """Refuse what is not a batch of images.

    Raises:
        ValueError: ``images`` is one array, or holds something else, such as paths.

    >>> check_batch([np.zeros((4, 4, 3), np.uint8)])
    >>> check_batch(np.zeros((4, 4, 3), np.uint8))
    Traceback (most recent call last):
    ValueError: a stage takes a list of images, got one array of shape (4, 4, 3); pass [image]
    """
    if isinstance(images, np.ndarray) and images.ndim == 3:
        raise ValueError(f"a stage takes a list of images, got one array of shape {images.shape}; pass [image]")
    for image in images:
        check_image(image)


def check_image(image: object) -> None:
    """Refuse what is not an image.

    Raises:
        ValueError: it is something else, such as a path, a grey picture, or floats.

    >>> check_image("photo.jpg")
    Traceback (most recent call last):
    ValueError: an image is (h, w, 3) uint8 RGB of at least one pixel, as read_image returns it, got a str
    """
    if not isinstance(image, np.ndarray):
        got = f"a {type(image).__name__}"
    elif image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        got = f"{image.dtype} {image.shape}"
    else:
        return
    raise ValueError(f"an image is (h, w, 3) uint8 RGB of at least one pixel, as read_image returns it, got {got}")
