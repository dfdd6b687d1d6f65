"""Near-duplicates: one picture that stands under two items, or on both sides of a split.

Two ways to find them: by a perceptual hash, which sees one picture saved twice, and by an embedder's vectors, which
see what the embedder could not tell apart anyhow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.disjoint import DisjointSets
from stages.embed.items import PhotoSet
from stages.types import Image, Vectors

HASH_BITS: Final = 4
"""Of 64: pictures whose hashes differ in no more are one picture, if their colours agree as well."""

COLOUR_DISTANCE: Final = 8.0
"""In 8-bit Lab: how far any cell of a copy may be from the picture's; a garment may cover few of them."""

SIMILARITY: Final = 0.98
"""From which on an embedder's vectors are called duplicates."""

_CELLS: Final = 8
_BLOCK: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Prints:
    """Perceptual hashes: ``bits`` ``(n, 64)`` of -1 and 1, and ``colours`` ``(n, 192)``, mean Lab of 8 x 8 cells."""

    bits: NDArray[np.float32]
    colours: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two rows that are near-duplicates, the lower first; by hash the score counts differing bits."""

    first: int
    second: int
    by: Literal["hash", "vectors"]
    score: float


def prints_of(images: Sequence[Image]) -> Prints:
    """The hash of each image.

    The hash is the difference hash (N. Krawetz, "Kind of like that", 2013): whether each of 8 x 9 grey cells is
    lighter than its neighbour. Since it is blind for colour, and shops recolour their photos, colours are kept too.
    """
    bits = np.empty((len(images), _CELLS * _CELLS), np.float32)
    colours = np.empty((len(images), 3 * _CELLS * _CELLS), np.float32)
    for row, image in enumerate(images):
        square = cv2.resize(image, (8 * _CELLS, 8 * _CELLS), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
        grey = cv2.resize(lab[..., 0], (_CELLS + 1, _CELLS), interpolation=cv2.INTER_AREA).astype(np.int16)
        bits[row] = np.where(grey[:, 1:] > grey[:, :-1], 1, -1).ravel()
        colours[row] = cv2.resize(lab, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).ravel()
    return Prints(bits, colours)


def by_hash(prints: Prints, bits: int = HASH_BITS, colour: float = COLOUR_DISTANCE) -> list[Duplicate]:
    """Pairs whose hashes differ in at most so many bits, and no cell of them by more than so much in colour."""
    found = []
    for first, second in _pairs(prints.bits, len(prints.bits[0]) - 2 * bits if len(prints.bits) else 0):
        differing = int((prints.bits[first] != prints.bits[second]).sum())
        cells = (prints.colours[first] - prints.colours[second]).reshape(-1, 3)
        if float(np.linalg.norm(cells, axis=1).max()) <= colour:
            found.append(Duplicate(first, second, "hash", float(differing)))
    return found


def by_vectors(vectors: Vectors, similarity: float = SIMILARITY) -> list[Duplicate]:
    """Pairs of unit rows at least so similar."""
    return [
        Duplicate(first, second, "vectors", float(vectors[first] @ vectors[second]))
        for first, second in _pairs(vectors, similarity)
    ]


def groups_of(duplicates: Iterable[Duplicate], count: int) -> list[list[int]]:
    """Rows that a chain of pairs joins, of ``count`` rows; each group rising, the largest first."""
    rows = DisjointSets(range(count))
    for pair in duplicates:
        rows.join(pair.first, pair.second)
    return rows.groups()


def merged(photos: PhotoSet, groups: Iterable[Sequence[int]]) -> PhotoSet:
    """The set with items that share a near-duplicate made one, and only the first of each group's photos kept.

    A merged item has the name of its first; styles and items that are merged no longer come apart in a split.
    """
    groups = [list(group) for group in groups]
    items = DisjointSets(photos.items)
    for first, *rest in groups:
        for other in rest:
            items.join(photos.samples[first].item, photos.samples[other].item)
    dropped = {row for _, *rest in groups for row in rest}
    heads = {sample.item: sample for sample in reversed(photos.samples)}
    kept = []
    for row, sample in enumerate(photos.samples):
        if row not in dropped:
            head = heads[items.leader(sample.item)]
            kept.append(replace(sample, item=head.item, style=head.style))
    return replace(photos, samples=tuple(kept))


def _pairs(rows: NDArray[np.float32], least: float) -> Iterator[tuple[int, int]]:
    """Rows whose inner product is at least so large, each pair once."""
    for start in range(0, len(rows), _BLOCK):
        products = rows[start : start + _BLOCK] @ rows[start:].T
        for one, other in np.argwhere(products >= least - 1e-6).tolist():
            if one < other:
                yield start + one, start + other
