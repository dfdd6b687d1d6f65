"""The gallery's vectors: immutable segments on disk and what is not saved yet, each row under an id that is its for ever.

Vectors are unit rows, so that a row of int8 needs no scale: dividing it by its length restores it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.arrays import Arrays, Blocks, MemoryArrays
from stages.errors import GalleryCorrupt
from stages.index import exact_search
from stages.index.checks import check_vectors
from stages.index.exact import merge, no_neighbors
from stages.types import Neighbors, Vectors

STORAGE: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
}
"""How vectors can be stored, by name: 4, 2 or 1 bytes for each number."""

BLOCK: Final = 1 << 15
"""Rows that are decoded at once."""


def encode(vectors: Vectors, storage: str) -> NDArray[Any]:
    """Unit rows as they are stored.

    >>> encode(np.array([[0.6, 0.8]], np.float32), "int8")
    array([[ 95, 127]], dtype=int8)
    """
    if storage == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=np.finfo(np.float32).tiny)
        vectors = np.rint(vectors * (127 / largest))
    stored: NDArray[Any] = vectors.astype(STORAGE[storage])
    return stored


def decode(stored: NDArray[Any]) -> Vectors:
    """Stored rows as float32 unit rows; float32 is handed through.

    >>> decode(np.array([[95, 127]], np.int8)).round(3).tolist()
    [[0.5989999771118164, 0.8009999990463257]]
    """
    if stored.dtype == np.float32:
        return stored
    vectors = stored.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # damaged rows of zeros are told where they are searched
        vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


class VectorStore:
    """Vectors by id, in the order of their ids; removed ones stay until they are compacted away.

    Args:
        segments: arrays ``ids`` ``(n,)`` int64 and ``vectors`` ``(n, dim)``, ids rising from segment to segment.
        dim: the width of the vectors.
        storage: a name in :data:`STORAGE`.
    """

    def __init__(self, segments: Sequence[Arrays], dim: int, storage: str) -> None:
        self._saved, self._dim, self._storage = list(segments), dim, storage
        self._ids = [segment.part("ids") for segment in segments]
        self._fresh: list[MemoryArrays] = []

    @property
    def saved_counts(self) -> list[int]:
        """The rows of each segment on disk."""
        return [len(ids) for ids in self._ids[: len(self._saved)]]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Every id that has a vector, also removed ones, rising."""
        return np.concatenate([np.zeros(0, np.int64), *self._ids])

    def append(self, ids: NDArray[np.int64], vectors: Vectors) -> None:
        """Take unit rows under ids larger than all before."""
        self.append_stored(ids, encode(vectors, self._storage))

    def append_stored(self, ids: NDArray[np.int64], stored: NDArray[Any]) -> None:
        """Take rows that are encoded already."""
        self._fresh.append(MemoryArrays({"ids": ids, "vectors": stored}))
        self._ids.append(ids)

    def take(self, ids: NDArray[np.int64]) -> Vectors:
        """The unit rows of rising ids, ``(len(ids), dim)``.

        Raises:
            GalleryCorrupt: there are none for some ids, or they are no unit rows.
        """
        taken = np.empty((len(ids), self._dim), np.float32)
        at = 0
        for _, vectors in self.blocks(ids):
            taken[at : at + len(vectors)] = vectors
            at += len(vectors)
        if at < len(ids):
            raise GalleryCorrupt(f"the gallery has no vector for {len(ids) - at} of its rows")
        try:
            check_vectors(taken, self._dim)
        except ValueError as error:
            raise GalleryCorrupt(f"the gallery's vectors are damaged: {error}") from error
        return taken

    def blocks(self, ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Rising ids and their unit rows, block by block; where all of a block is wanted it is not copied."""
        for part, stored in self._blocks(ids, 0):
            yield part, decode(stored)

    def search(self, queries: Vectors, k: int, ids: NDArray[np.int64]) -> Neighbors:
        """The k nearest of some rows, exactly; padded with -1 where there are fewer."""
        found = no_neighbors(len(queries), k)
        for part, vectors in self.blocks(ids):
            near = exact_search(vectors, queries, min(k, len(part)))
            found = merge(found, Neighbors(part[near.rows], near.similarities))
        return found

    def arrays(self, ids: NDArray[np.int64], first: int) -> dict[str, NDArray[Any] | Blocks]:
        """What to write so as to replace the segments from ``first`` on, of which some ids are kept."""
        start = self._ids[first][:1] if first < len(self._ids) else ids[:0]
        kept = ids[np.searchsorted(ids, start[0]) :] if len(start) else ids[:0]
        stored = (stored for _, stored in self._blocks(kept, first))
        return {"ids": kept, "vectors": Blocks(STORAGE[self._storage], (len(kept), self._dim), stored)}

    def _segments(self) -> list[Arrays]:
        if len(self._fresh) > 1:  # single rows that came one by one
            ids = np.concatenate(self._ids[len(self._saved) :])
            stored = np.concatenate([fresh.part("vectors") for fresh in self._fresh])
            self._fresh, self._ids[len(self._saved) :] = [MemoryArrays({"ids": ids, "vectors": stored})], [ids]
        return [*self._saved, *self._fresh]

    def _blocks(self, ids: NDArray[np.int64], first: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        for segment, own in list(zip(self._segments(), self._ids, strict=True))[first:]:
            if len(own) == 0:
                continue
            low, high = np.searchsorted(ids, [own[0], own[-1] + 1])
            wanted = ids[low:high]
            for start in range(0, len(wanted), BLOCK):
                part = wanted[start : start + BLOCK]
                places = np.searchsorted(own, part)
                if (own[np.minimum(places, len(own) - 1)] != part).any():
                    raise GalleryCorrupt("the gallery has no vectors for some of its rows")
                whole = places[-1] - places[0] + 1 == len(places)
                stored = (
                    segment.part("vectors", places[0], places[-1] + 1) if whole else segment.take("vectors", places)
                )
                yield part, stored
