"""Near-duplicates: pictures listed under two items, or on both sides of a split.

A perceptual hash finds pictures that were saved twice; an embedder's vectors find pictures that it could not tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.disjoint import DisjointSets
from stages.embed.data import Dataset
from stages.types import Image, Vectors

HASH_BITS: Final = 4
"""The most bits, of 64, by which the hashes of near-duplicates differ."""

COLOUR_DISTANCE: Final = 8.0
"""The largest distance between cells of near-duplicates, in 8-bit Lab; per cell, since a garment may cover only a few."""

SIMILARITY: Final = 0.98
"""The similarity from which vectors count as near-duplicates."""

_CELLS: Final = 8
_BLOCK: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """Perceptual hashes: ``bits`` ``(n, 64)`` of -1 and 1, and ``colours`` ``(n, 192)``, the mean Lab of 8 x 8 cells."""

    bits: NDArray[np.float32]
    colours: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two rows that are near-duplicates, the lower first; the score is a similarity, or the number of differing bits."""

    first: int
    second: int
    by: Literal["hash", "vectors"]
    score: float


def perceptual_hashes(images: Sequence[Image]) -> Hashes:
    """Return the difference hash of each image (N. Krawetz, "Kind of Like That", 2013), with its colours.

    A bit says whether one of 8 x 9 grey cells is lighter than its neighbour. Shops recolour their photos, which the hash
    alone would not notice.
    """
    bits = np.empty((len(images), _CELLS * _CELLS), np.float32)
    colours = np.empty((len(images), 3 * _CELLS * _CELLS), np.float32)
    for row, image in enumerate(images):
        square = cv2.resize(image, (8 * _CELLS, 8 * _CELLS), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
        grey = cv2.resize(lab[..., 0], (_CELLS + 1, _CELLS), interpolation=cv2.INTER_AREA).astype(np.int16)
        bits[row] = np.where(grey[:, 1:] > grey[:, :-1], 1, -1).ravel()
        colours[row] = cv2.resize(lab, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).ravel()
    return Hashes(bits, colours)


def by_hash(hashes: Hashes, bits: int = HASH_BITS, colour: float = COLOUR_DISTANCE) -> list[Duplicate]:
    """Return the pairs that differ in at most ``bits`` bits, and in no cell by more than ``colour``."""
    pairs = []
    for first, second in _similar_pairs(hashes.bits, hashes.bits.shape[1] - 2 * bits):
        differing = int((hashes.bits[first] != hashes.bits[second]).sum())
        cells = (hashes.colours[first] - hashes.colours[second]).reshape(-1, 3)
        if float(np.linalg.norm(cells, axis=1).max()) <= colour:
            pairs.append(Duplicate(first, second, "hash", float(differing)))
    return pairs


def by_vectors(vectors: Vectors, similarity: float = SIMILARITY) -> list[Duplicate]:
    """Return the pairs of unit rows with at least this similarity."""
    return [
        Duplicate(first, second, "vectors", float(vectors[first] @ vectors[second]))
        for first, second in _similar_pairs(vectors, similarity)
    ]


def duplicate_groups(duplicates: Iterable[Duplicate], count: int) -> list[list[int]]:
    """Return the groups of rows, of ``count``, that pairs connect; rows ascending, the largest group first."""
    rows = DisjointSets(range(count))
    for pair in duplicates:
        rows.join(pair.first, pair.second)
    return rows.groups()


def merge_duplicates(photos: Dataset, groups: Iterable[Sequence[int]]) -> Dataset:
    """Return the set with only the first photo of each group, and items that share a group merged into the first of them.

    A merged item keeps the name and the style of its first, so that a split never separates its photos.
    """
    samples, items, dropped = photos.samples, DisjointSets(photos.items), set[int]()
    for first, *rest in groups:
        dropped.update(rest)
        for other in rest:
            items.join(samples[first].item, samples[other].item)
    styles = {sample.item: sample.style for sample in reversed(samples)}
    kept = (sample for row, sample in enumerate(samples) if row not in dropped)
    leaders = ((sample, items.leader(sample.item)) for sample in kept)
    merged = tuple(replace(sample, item=leader, style=styles[leader]) for sample, leader in leaders)
    return replace(photos, samples=merged, images=())


def _similar_pairs(rows: NDArray[np.float32], minimum: float) -> Iterator[tuple[int, int]]:
    """Yield each pair of rows whose inner product is at least ``minimum`` once."""
    for start in range(0, len(rows), _BLOCK):
        products = rows[start : start + _BLOCK] @ rows[start:].T
        for first, second in np.argwhere(products >= minimum - 1e-6).tolist():
            if first < second:
                yield start + first, start + second
