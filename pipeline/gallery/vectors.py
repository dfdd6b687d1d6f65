"""Vectors in blocks: how they are encoded, and the table of a gallery's photos that holds them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    """Consecutive photos as they are stored together: ids, the keys of their items, and which are still live."""

    number: int
    ids: Ids
    keys: Ids
    live: NDArray[np.bool_]


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
        self._ids = np.concatenate([none, *(block.ids for block in blocks)])
        self._keys = np.concatenate([none, *(block.keys for block in blocks)])
        self._alive = np.concatenate([np.zeros(0, np.bool_), *(block.live for block in blocks)])
        self._gapless = len(self._ids) > 0 and int(self._ids[-1] - self._ids[0]) == len(self._ids) - 1
        self._stored = np.empty((len(self._ids), dim), STORAGE[storage])  # memory is taken as blocks are read
        self._loaded = np.zeros(len(blocks), np.bool_)
        self._new_ids: list[int] = []
        self._new_keys: dict[int, int] = {}
        self._new_of_key: dict[int, list[int]] = {}
        self._new_stored: list[NDArray[Any]] = []
        self._removed: set[int] = set()
        self._live: Ids | None = None

    @property
    def live(self) -> Ids:
        """The ids of all live photos, rising; the same array until a photo is added or removed."""
        if self._live is None:
            ids = np.concatenate([self._ids[self._alive], np.array(self._new_ids, np.int64)])
            if self._removed:
                ids = ids[~np.isin(ids, np.fromiter(self._removed, np.int64))]
            self._live = ids
        return self._live

    @property
    def removed_count(self) -> int:
        """How many saved photos are removed and still take space."""
        return len(self._ids) - int(np.isin(self._ids, self.live, assume_unique=True).sum())

    @property
    def item_count(self) -> int:
        """How many items have a live photo."""
        return len(np.unique(self.keys_of(self.live)))

    def append(self, ids: Sequence[int], keys: Sequence[int], vectors: Vectors) -> None:
        """Add unit rows under consecutive ids that are larger than all before."""
        self._new_ids += ids
        for number, key in zip(ids, keys, strict=True):
            self._new_keys[number] = key
            self._new_of_key.setdefault(key, []).append(number)
        self._new_stored.append(encode(vectors, self.storage))
        self._live = None

    def remove(self, ids: Sequence[int]) -> None:
        """Remove live photos."""
        self._removed.update(ids)
        self._live = None

    def of_key(self, key: int) -> list[int]:
        """Return the ids of the live photos whose item has a key."""
        order, keys = self._by_key
        low, high = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
        places = np.sort(order[low:high])
        saved = self._ids[places[self._alive[places]]].tolist()
        return [number for number in [*saved, *self._new_of_key.get(key, ())] if number not in self._removed]

    def keys_of(self, ids: Ids) -> Ids:
        """Return the item keys of some photos: equal where the items are."""
        if not self._new_ids:
            return self._keys[self._places(ids)]
        saved = ids < self._new_ids[0]
        keys = np.empty(len(ids), np.int64)
        keys[saved] = self._keys[self._places(ids[saved])]
        keys[~saved] = [self._new_keys[number] for number in ids[~saved].tolist()]
        return keys

    def take(self, ids: Ids) -> Vectors:
        """Return the unit rows of some photos, ``(len(ids), dim)``; the ids rise.

        Raises:
            GalleryCorrupt: they are missing, damaged, or not unit rows.
        """
        taken = np.empty((len(ids), self.dim), np.float32)
        start = 0
        for part, vectors in self.chunks(ids):
            taken[start : start + len(part)] = vectors
            start += len(part)
        try:
            check_vectors(taken, self.dim)
        except ValueError as error:
            raise GalleryCorrupt(f"the gallery's vectors are damaged: {error}") from error
        return taken

    def chunks(self, ids: Ids) -> Iterator[tuple[Ids, Vectors]]:
        """Yield rising ids with their unit rows, a bounded number at a time."""
        split = int(np.searchsorted(ids, self._new_ids[0])) if self._new_ids else len(ids)
        for part, stored in self._stored_chunks(ids[:split]):
            yield part, decode(stored)
        fresh = ids[split:]
        for start in range(0, len(fresh), CHUNK):
            part = fresh[start : start + CHUNK]
            yield part, decode(self._fresh[part - self._new_ids[0]])

    def search(self, queries: Vectors, k: int, ids: Ids) -> Neighbors:
        """Return the k nearest of some photos, exactly; padded with -1 where there are fewer."""
        found = no_neighbors(len(queries), k)
        for part, vectors in self.chunks(ids):
            near = exact_search(vectors, queries, min(k, len(part)))
            found = merge(found, Neighbors(part[near.rows], near.similarities))
        return found

    def blocks_to_write(self, rows: int, *, anew: bool = False) -> Iterator[tuple[Block, NDArray[Any] | None]]:
        """Yield the blocks that a save writes, each with its vectors, or None where those are the same as before.

        New photos fill up the last block, then further ones of at most ``rows`` rows. A block without ids is to be
        deleted.

        Args:
            rows: of a full block.
            anew: write every live photo into new blocks, and delete the old ones.
        """
        live, number = self.live, self.blocks[-1].number + 1 if self.blocks else 0
        if anew:
            for part, stored in self._stored_rows(live, rows):
                yield Block(number, part, self.keys_of(part), np.ones(len(part), np.bool_)), stored
                number += 1
            for block in self.blocks:
                yield _deleted(block), None
            return
        last = self.blocks[-1] if self.blocks and len(self.blocks[-1].ids) < rows else None
        fresh = live[np.searchsorted(live, self._new_ids[0]) :] if self._new_ids else live[:0]
        changed = self._blocks_of(np.fromiter(self._removed, np.int64, len(self._removed)))
        for place, block in enumerate(self.blocks):
            if place in changed and not (block is last and len(fresh)):
                still = np.isin(block.ids, live, assume_unique=True)
                yield (Block(block.number, block.ids, block.keys, still) if still.any() else _deleted(block)), None
        if last is not None and len(fresh):
            part, fresh = fresh[: rows - len(last.ids)], fresh[rows - len(last.ids) :]
            ids = np.concatenate([last.ids, part])
            keys = np.concatenate([last.keys, self.keys_of(part)])
            first = int(self._starts[-2])
            self._load(np.array([len(self.blocks) - 1]))
            stored = np.concatenate([self._stored[first:], self._fresh[part - self._new_ids[0]]])
            yield Block(last.number, ids, keys, np.isin(ids, live, assume_unique=True)), stored
        for part, stored in self._stored_rows(fresh, rows):
            yield Block(number, part, self.keys_of(part), np.ones(len(part), np.bool_)), stored
            number += 1

    def _stored_rows(self, ids: Ids, rows: int) -> Iterator[tuple[Ids, NDArray[Any]]]:
        """Yield ids with their vectors as they are stored, in parts of ``rows`` rows."""
        for start in range(0, len(ids), rows):
            part = ids[start : start + rows]
            split = int(np.searchsorted(part, self._new_ids[0])) if self._new_ids else len(part)
            saved = [stored for _, stored in self._stored_chunks(part[:split])]
            fresh = [self._fresh[part[split:] - self._new_ids[0]]] if split < len(part) else []
            yield part, np.concatenate([*saved, *fresh])

    def _stored_chunks(self, ids: Ids) -> Iterator[tuple[Ids, NDArray[Any]]]:
        """Yield saved ids with their vectors as they are stored; consecutive rows are not copied."""
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            places = self._places(part)
            self._load(np.unique(np.searchsorted(self._starts, places, side="right") - 1))
            consecutive = places[-1] - places[0] + 1 == len(places)
            yield part, self._stored[places[0] : places[-1] + 1] if consecutive else self._stored[places]

    def _load(self, blocks: NDArray[np.int64]) -> None:
        for place in blocks[~self._loaded[blocks]].tolist():
            self._stored[self._starts[place] : self._starts[place + 1]] = self._read_vectors(self.blocks[place])
            self._loaded[place] = True

    def _places(self, ids: Ids) -> NDArray[np.int64]:
        """Return where saved photos are, counted from the first row of the first block."""
        places: NDArray[np.int64] = ids - self._ids[0] if self._gapless else np.searchsorted(self._ids, ids)
        return places

    def _blocks_of(self, ids: Ids) -> set[int]:
        """Return the places of the blocks that hold some ids, which may also be of photos that are not saved."""
        saved = ids[np.isin(ids, self._ids)]
        return set((np.searchsorted(self._starts, self._places(saved), side="right") - 1).tolist())

    @cached_property
    def _by_key(self) -> tuple[NDArray[np.int64], Ids]:
        order = np.argsort(self._keys, kind="stable")
        return order, self._keys[order]

    @property
    def _fresh(self) -> NDArray[Any]:
        """The stored vectors of all photos that are not saved yet, by the order of their ids."""
        if len(self._new_stored) != 1:
            self._new_stored = [np.concatenate([self._stored[:0], *self._new_stored])]
        return self._new_stored[0]


def _deleted(block: Block) -> Block:
    return Block(block.number, block.ids[:0], block.keys[:0], block.live[:0])
