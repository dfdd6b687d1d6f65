"""The nearest rows of a gallery: through its index, and exactly wherever that is better."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.vectors import BLOCK, VectorStore
from stages.index.exact import merge, no_neighbors
from stages.protocols import Index, StorableIndex
from stages.types import Neighbors, Vectors

Ids = NDArray[np.int64]

TAIL: Final = 4096
"""Rows that are searched exactly beside the index before they are added to it, or a twentieth of it if that is more."""

WALK: Final = 64
"""About how many similarities a walk through a graph computes for each row that it returns."""


def tail_limit(indexed: int) -> int:
    """How many rows may wait beside an index of some rows: then it takes them, and its file is written anew."""
    return max(TAIL, indexed // 20)


class Searcher:
    """Searches vectors through an index that holds most of them; the others are searched exactly.

    Args:
        vectors: all vectors.
        make: an empty index, or None where every search is exact.
        load: an index as it was saved with its ids, or None.
    """

    def __init__(
        self,
        vectors: VectorStore,
        make: Callable[[], Index] | None,
        load: Callable[[], tuple[Index, Ids] | None] = lambda: None,
    ) -> None:
        self.vectors = vectors
        self._make, self._load = make, load
        self._index: Index | None = None
        self._lock = Lock()
        self._held = self._tail = self._synced = np.zeros(0, np.int64)

    @property
    def storable(self) -> bool:
        """Whether there is an index, and it is one that can be saved."""
        return self._make is not None and isinstance(self._index or self._make(), StorableIndex)

    def restart(self) -> None:
        """Forget the index and make it anew when it is needed, whatever was saved."""
        self._index, self._load = None, lambda: None

    def index(self, live: Ids, limit: int | None = None) -> tuple[Index, Ids] | None:
        """The index with the ids that it holds, once removed rows are out of it and no more than ``limit`` wait."""
        if self._make is None:
            return None
        with self._lock:
            return self._brought_up_to(live, self._make, limit)

    def _brought_up_to(self, live: Ids, make: Callable[[], Index], limit: int | None) -> tuple[Index, Ids]:
        if self._index is None:
            self._index, self._held = self._load() or (make(), np.zeros(0, np.int64))
            self._synced = np.zeros(0, np.int64)
        if live is not self._synced:
            stale = np.setdiff1d(self._held, live, assume_unique=True)
            if len(stale) > len(self._held) // 2:
                self._index, self._held = make(), np.zeros(0, np.int64)
            elif len(stale):
                try:
                    self._index.remove(stale)
                    self._held = np.setdiff1d(self._held, stale, assume_unique=True)
                except ValueError:  # a saved index that holds other rows than it says
                    self._index, self._held = make(), np.zeros(0, np.int64)
            self._tail, self._synced = np.setdiff1d(live, self._held, assume_unique=True), live
        if len(self._tail) > (tail_limit(len(self._held)) if limit is None else limit):
            for start in range(0, len(self._tail), 8 * BLOCK):
                part = self._tail[start : start + 8 * BLOCK]
                self._index.add(part, self.vectors.take(part))
            self._held, self._tail = live, live[:0]
        return self._index, self._held

    def search(self, queries: Vectors, k: int, live: Ids, pool: Ids | None = None) -> Neighbors:
        """The k nearest of all live rows, or of a pool of them, as ids; padded with -1 where there are fewer."""
        wanted = live if pool is None else pool
        if len(wanted) <= TAIL or self._make is None:
            return self.vectors.search(queries, k, wanted)
        fetch = k if pool is None else min(2 * k * len(live) // len(pool) + 1, len(live))
        if fetch * WALK > len(wanted):
            return self.vectors.search(queries, k, wanted)
        made = self.index(live)
        if made is None or len(made[1]) == 0:
            return self.vectors.search(queries, k, wanted)
        found = made[0].search(queries, min(fetch, len(made[1])))
        if pool is not None:
            inside = np.isin(found.rows, pool)
            found = Neighbors(np.where(inside, found.rows, -1), np.where(inside, found.similarities, -np.inf))
        whole = pool is None and found.rows.shape[1] == k
        best = found if whole else merge(no_neighbors(len(queries), k), found)
        tail = self._tail if pool is None else np.intersect1d(self._tail, pool, assume_unique=True)
        if len(tail):
            best = merge(best, self.vectors.search(queries, k, tail))
        short = np.flatnonzero((best.rows < 0).any(axis=1))
        if len(short) and len(wanted) >= k:
            exact = self.vectors.search(queries[short], k, wanted)
            best.rows[short], best.similarities[short] = exact.rows, exact.similarities
        return best
