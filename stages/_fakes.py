"""Small stages without a network, for tests of what is built on stages; public in :mod:`stages.testing`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.types import Box, Crop, Detection, Image, Neighbors, Vectors


def example_images() -> list[Image]:
    """Photos of odd sizes: shapes on white, one pixel, one row, one column, all white, all black, noise."""
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
    """Finds what is not white, one detection per run of columns; the more it fills its box, the higher its score.

    >>> [garment.box for garment in FakeDetector()(example_images()[:1])[0]]
    [Box(x1=4, y1=8, x2=20, y2=56), Box(x1=24, y1=20, x2=44, y2=30)]
    """

    labels: tuple[str, ...] = ("top", "dress")
    input_px: int | None = None

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        return [sorted(self._find(image), key=lambda found: -found.score) for image in images]

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


class FakeCropper:
    """Cuts out the box, no more."""

    fingerprint: str = "fake box"

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        pairs = zip(images, detections, strict=True)
        return [[Crop(image[found.box.slices].copy(), found.box) for found in some] for image, some in pairs]


class FakeEmbedder:
    """Sixteen mean colours and a constant, as a unit vector: pictures that look alike are close."""

    dim: int = 49
    input_px: int = 16
    fingerprint: str = "fake mean colours"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        vectors = np.array([self._embed(image) for image in images], np.float32)
        return vectors.reshape(len(images), self.dim)

    def _embed(self, image: Image) -> NDArray[np.float32]:
        height, width, _ = image.shape
        grid = np.arange(16)
        small = image[np.ix_(grid * height // 16, grid * width // 16)] / 255 - 0.5
        means = small.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
        vector = np.append(means.ravel(), 0.5)
        unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit


class FakeIndex:
    """Compares a query with every stored vector.

    Raises:
        ValueError: ``add`` and ``remove`` refuse what the law of an index refuses.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._stored: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, rows: NDArray[np.int64], vectors: Vectors) -> None:
        """Store unit vectors under row numbers that are not taken."""
        self._check(vectors)
        numbers: list[int] = rows.tolist()
        if len(numbers) != len(vectors) or len(set(numbers)) < len(numbers) or min(numbers, default=0) < 0:
            raise ValueError("wanted one distinct row number, at least 0, for each vector")
        if taken := self._stored.keys() & set(numbers):
            raise ValueError(f"rows {sorted(taken)} are taken; remove them first")
        self._stored.update(zip(numbers, vectors.copy(), strict=True))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Forget rows that are there."""
        numbers: list[int] = rows.tolist()
        if len(set(numbers)) < len(numbers) or not self._stored.keys() >= set(numbers):
            raise ValueError(f"wanted distinct rows that are stored, got {numbers}")
        for number in numbers:
            del self._stored[number]

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """The k most similar rows of each query."""
        self._check(queries)
        if k < 1:
            raise ValueError(f"wanted at least 1 neighbour, got k={k}")
        rows = np.full((len(queries), k), -1, np.int64)
        similarities = np.full((len(queries), k), -np.inf, np.float32)
        if self._stored:
            numbers = np.array(list(self._stored), np.int64)
            every = queries @ np.stack(list(self._stored.values())).T
            best = np.argsort(-every, axis=1, kind="stable")[:, :k]
            rows[:, : best.shape[1]] = numbers[best]
            similarities[:, : best.shape[1]] = np.take_along_axis(every, best, axis=1)
        return Neighbors(rows, similarities)

    def _check(self, vectors: Vectors) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"wanted vectors of shape (n, {self.dim}), got {vectors.shape}")
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
            raise ValueError("wanted finite unit vectors; divide each by its norm")
