"""Vectors in blocks: how they are encoded, and the table of a gallery's photos that holds them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.errors import GalleryCorrupt
from stages.index import exact_search
from stages.index.checks import check_vectors
from stages.index.exact import merge, no_neighbors
from stages.types import Neighbors, Vectors

Ids = NDArray[np.int64]

STORAGE: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
}
"""How vectors can be stored, by name: 4, 2 or 1 bytes for each number."""

CHUNK: Final = 1 << 15
"""Rows that are decoded at once."""


def encode(vectors: Vectors, storage: str) -> NDArray[Any]:
    """Return unit rows as they are stored.

    >>> encode(np.array([[0.6, 0.8]], np.float32), "int8")
    array([[ 95, 127]], dtype=int8)
    """
    if storage == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=np.finfo(np.float32).tiny)
        vectors = np.rint(vectors * (127 / largest))
    stored: NDArray[Any] = vectors.astype(STORAGE[storage])
    return stored


def decode(stored: NDArray[Any]) -> Vectors:
    """Return stored rows as float32 unit rows; float32 rows are returned without a copy.

    >>> decode(np.array([[95, 127]], np.int8)).round(3).tolist()
    [[0.5989999771118164, 0.8009999990463257]]
    """
    if stored.dtype == np.float32:
        return stored
    vectors = stored.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # a damaged row of zeros is reported by the search
        vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


def item_key(item: str) -> int:
    """Return a 64-bit hash of an item id, by which an item's photos are found without reading their rows."""
    digest = blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Photos that were saved together: ids, the keys of their items, which are still live, and their vectors' digest.

    All but ``live`` stay as they were written; a block without ids is to be deleted.
    """

    number: int
    ids: Ids
    keys: Ids
    live: NDArray[np.bool_]
    digest: bytes = b""


class PhotoTable:
    """The ids, item keys and vectors of a gallery's photos, in the order of addition.

    Ids rise and are never reused. A removed photo keeps its place in its block until the gallery is compacted.

    Args:
        dim: the width of the vectors.
        storage: a name in :data:`STORAGE`.
        blocks: what is saved; their ids rise.
        read_vectors: reads the verified vectors of one block as they are stored; each block is read once.
    """

    def __init__(
        self, dim: int, storage: str, blocks: Sequence[Block], read_vectors: Callable[[Block], NDArray[Any]]
    ) -> None:
        self.dim, self.storage, self.blocks = dim, storage, blocks
        self._read_vectors = read_vectors
        none = np.zeros(0, np.int64)
        self._starts = np.cumsum([0, *(len(block.ids) for block in blocks)])
        self._saved = self._count = int(self._starts[-1])
        self._ids = np.concatenate([none, *(block.ids for block in blocks)])  # these may have unused space at the end
        self._keys = np.concatenate([none, *(block.keys for block in blocks)])
        self._alive = np.concatenate([none.astype(np.bool_), *(block.live for block in blocks)])
        self._stored = np.empty((self._saved, dim), STORAGE[storage])  # memory is taken as blocks are read
        self._loaded = np.zeros(len(blocks), np.bool_)
        self._added = np.empty((0, dim), STORAGE[storage])
        self._added_of_key: dict[int, list[int]] = {}
        self._live: Ids | None = None

    @property
    def live(self) -> Ids:
        """The ids of all live photos, rising; the same array until a photo is added or removed."""
        if self._live is None:
            self._live = self._ids[: self._count][self._alive[: self._count]]
        return self._live

    @property
    def removed_count(self) -> int:
        """How many saved photos are removed and still take space."""
        return self._saved - int(np.count_nonzero(self._alive[: self._saved]))

    @property
    def item_count(self) -> int:
        """How many items have a live photo."""
        return len(np.unique(self.keys_of(self.live)))

    def append(self, number: int, key: int, vector: Vectors) -> None:
        """Add a unit row, ``(1, dim)``, under an id that is larger than all before."""
        self._added = _appended(self._added, self._count - self._saved, encode(vector, self.storage)[0])
        self._ids = _appended(self._ids, self._count, number)
        self._keys = _appended(self._keys, self._count, key)
        self._alive = _appended(self._alive, self._count, True)
        self._added_of_key.setdefault(key, []).append(number)
        self._count += 1
        self._live = None

    def remove(self, ids: Sequence[int]) -> None:
        """Remove live photos."""
        self._alive[self._places(np.array(ids, np.int64))] = False
        self._live = None

    def of_key(self, key: int) -> list[int]:
        """Return the ids of the live photos whose item has a key."""
        order, keys = self._by_key
        low, high = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
        added = np.array(self._added_of_key.get(key, []), np.int64)
        places = np.concatenate([np.sort(order[low:high]), self._places(added)])
        ids: list[int] = self._ids[places[self._alive[places]]].tolist()
        return ids

    def keys_of(self, ids: Ids) -> Ids:
        """Return the item keys of some photos: equal where the items are."""
        return self._keys[self._places(ids)]

    def take(self, ids: Ids) -> Vectors:
        """Return the unit rows of some photos, ``(len(ids), dim)``; the ids rise.

        Raises:
            GalleryCorrupt: they are missing, damaged, or not unit rows.
        """
        taken = np.concatenate([np.empty((0, self.dim), np.float32), *(rows for _, rows in self.chunks(ids))])
        try:
            check_vectors(taken, self.dim)
        except ValueError as error:
            raise GalleryCorrupt(f"the gallery's vectors are damaged: {error}") from error
        return taken

    def chunks(self, ids: Ids) -> Iterator[tuple[Ids, Vectors]]:
        """Yield rising ids with their unit rows, a bounded number at a time."""
        return ((part, decode(stored)) for part, stored in self._stored_chunks(ids))

    def search(self, queries: Vectors, k: int, ids: Ids) -> Neighbors:
        """Return the k nearest of some photos, exactly; padded with -1 where there are fewer."""
        found = no_neighbors(len(queries), k)
        for part, vectors in self.chunks(ids):
            near = exact_search(vectors, queries, min(k, len(part)))
            found = merge(found, Neighbors(part[near.rows], near.similarities))
        return found

    def changed_blocks(self, rows: int, *, rewrite: bool = False) -> Iterator[tuple[Block, NDArray[Any] | None]]:
        """Yield the blocks that a save writes, each with its vectors, or None where those stay.

        Args:
            rows: in a block at most.
            rewrite: write every live photo into new blocks, and delete the old ones.
        """
        ids = self.live if rewrite else self._ids[self._saved : self._count][self._alive[self._saved : self._count]]
        first = self.blocks[-1].number + 1 if self.blocks else 0
        for number, start in enumerate(range(0, len(ids), rows), first):
            part = ids[start : start + rows]
            stored = np.concatenate([stored for _, stored in self._stored_chunks(part)])
            yield Block(number, part, self.keys_of(part), np.ones(len(part), np.bool_)), stored
        for block, start in zip(self.blocks, self._starts.tolist(), strict=False):
            live = self._alive[start : start + len(block.ids)]
            if rewrite or not live.any():
                yield replace(block, ids=block.ids[:0]), None
            elif not np.array_equal(live, block.live):
                yield replace(block, live=live), None

    def _stored_chunks(self, ids: Ids) -> Iterator[tuple[Ids, NDArray[Any]]]:
        """Yield rising ids with their vectors as they are stored; consecutive rows are not copied."""
        places = self._places(ids)
        split = int(np.searchsorted(places, self._saved))
        for start in range(0, split, CHUNK):
            part = places[start : min(start + CHUNK, split)]
            self._load(np.unique(np.searchsorted(self._starts, part, side="right") - 1))
            yield ids[start : start + len(part)], _rows(self._stored, part)
        for start in range(split, len(ids), CHUNK):
            part = places[start : start + CHUNK]
            yield ids[start : start + len(part)], _rows(self._added, part - self._saved)

    def _load(self, blocks: NDArray[np.int64]) -> None:
        for place in blocks[~self._loaded[blocks]].tolist():
            self._stored[self._starts[place] : self._starts[place + 1]] = self._read_vectors(self.blocks[place])
            self._loaded[place] = True

    def _places(self, ids: Ids) -> NDArray[np.int64]:
        """Return where photos are, counted from the first row of the first block."""
        gapless = self._count == self._saved and self._gapless
        places: NDArray[np.int64] = ids - self._ids[0] if gapless else np.searchsorted(self._ids[: self._count], ids)
        return places

    @cached_property
    def _gapless(self) -> bool:
        return self._saved > 0 and int(self._ids[self._saved - 1] - self._ids[0]) == self._saved - 1

    @cached_property
    def _by_key(self) -> tuple[NDArray[np.int64], Ids]:
        keys = self._keys[: self._saved]
        order = np.argsort(keys, kind="stable")
        return order, keys[order]


def _appended(array: NDArray[Any], count: int, row: Any) -> NDArray[Any]:
    """Return an array with one row more after its first ``count``; its space doubles where it is used up."""
    if count == len(array):
        array = np.concatenate([array, np.empty((max(16, count), *array.shape[1:]), array.dtype)])
    array[count] = row
    return array


def _rows(matrix: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    consecutive = places[-1] - places[0] + 1 == len(places)
    return matrix[places[0] : places[-1] + 1] if consecutive else matrix[places]
