"""Searches: the nearest photos, the best photo of each item among them, and near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from threading import Lock
from typing import Final

import numpy as np

from pipeline.gallery.graphs import GraphCache
from pipeline.gallery.vectors import CHUNK, Ids, PhotoTable
from stages.disjoint import DisjointSets
from stages.errors import GalleryCorrupt
from stages.index.checks import check_vectors
from stages.index.exact import merge, no_neighbors
from stages.protocols import Index, StorableIndex
from stages.types import Match, Neighbors, Vectors

TAIL: Final = 4096
"""Photos that are searched exactly beside the index before it takes them, or a twentieth of it if that is more."""

WALK: Final = 64
"""About how many similarities a walk through a graph computes for each row that it returns."""

FETCH: Final = 64
"""Rows that a search for items fetches at least: an item has several photos."""

LONGEST: Final = 1.01
"""No two unit rows are more similar, however they are stored."""

DUPLICATES: Final = 512
"""Photos that are compared with all others at once."""


def tail_limit(indexed: int) -> int:
    """Return how many photos may wait beside an index of some photos before it takes them."""
    return max(TAIL, indexed // 20)


class Searcher:
    """Searches photos through an index that holds most of them; the others are searched exactly.

    Args:
        table: all photos.
        graphs: makes the index and keeps it; None where every search is exact.
    """

    def __init__(self, table: PhotoTable, graphs: GraphCache | None) -> None:
        self.table = table
        self._graphs = graphs
        self._index: Index | None = None
        self._lock = Lock()
        self._held = self._tail = self._synced = np.zeros(0, np.int64)

    def index(self) -> tuple[Index, Ids] | None:
        """Return the index and the ids that it holds: no removed ones, and most of the others; None where none is needed."""
        live = self.table.live
        if self._graphs is None or len(live) <= TAIL:
            return None
        with self._lock:
            none = np.zeros(0, np.int64)
            if self._index is None:
                self._index, self._held = self._graphs.load(self.table) or (self._graphs.make(), none)
                self._synced = none
            if live is not self._synced:
                stale = np.setdiff1d(self._held, live, assume_unique=True)
                if len(stale) > len(self._held) // 2:
                    self._index, self._held = self._graphs.make(), none
                elif len(stale):
                    self._index.remove(stale)
                    self._held = np.setdiff1d(self._held, stale, assume_unique=True)
                self._tail, self._synced = np.setdiff1d(live, self._held, assume_unique=True), live
            if len(self._tail) > tail_limit(len(self._held)):
                if not len(
                    self._held
                ):  # a process that is killed before the end leaves a Milvus collection to the next
                    self._graphs.keep(self.table, self._index, none)
                for start in range(0, len(self._tail), 8 * CHUNK):
                    part = self._tail[start : start + 8 * CHUNK]
                    self._index.add(part, self.table.take(part))
                self._held, self._tail = live, none
                self._graphs.keep(self.table, self._index, self._held)
            return self._index, self._held

    def keep_index(self) -> bool:
        """Make and keep an index, unless one is kept that holds most photos and few removed ones.

        Returns:
            Whether the photos need an index.
        """
        live = self.table.live
        if (
            self._graphs is None
            or len(live) <= TAIL
            or not isinstance(self._index or self._graphs.make(), StorableIndex)
        ):
            return False
        kept = self._graphs.find(self.table)
        held = live[:0] if kept is None else kept.held
        common = len(np.intersect1d(held, live, assume_unique=True))
        if len(live) - common > tail_limit(len(held)) or len(held) - common > len(held) // 2:
            self.index()
        return True

    def search(self, queries: Vectors, k: int, pool: Ids | None = None) -> Neighbors:
        """Return the k nearest of all live photos, or of some of them, as ids; padded with -1 where there are fewer."""
        live = self.table.live
        wanted = live if pool is None else pool
        fetch = k if pool is None else min(2 * k * len(live) // max(1, len(pool)) + 1, len(live))
        walks = len(wanted) > TAIL and fetch * WALK <= len(wanted)
        index, held = (self.index() if walks else None) or (None, live[:0])
        if index is None or len(held) == 0:
            return self.table.search(queries, k, wanted)
        best = index.search(queries, min(fetch, len(held)))
        if pool is not None:
            inside = np.isin(best.rows, pool)
            best = Neighbors(np.where(inside, best.rows, -1), np.where(inside, best.similarities, -np.inf))
        if pool is not None or best.rows.shape[1] != k:
            best = merge(no_neighbors(len(queries), k), best)
        tail = self._tail if pool is None else np.intersect1d(self._tail, pool, assume_unique=True)
        if len(tail):
            best = merge(best, self.table.search(queries, k, tail))
        short = np.flatnonzero((best.rows < 0).any(axis=1))
        if len(short) and len(wanted) >= k:
            exact = self.table.search(queries[short], k, wanted)
            best.rows[short], best.similarities[short] = exact.rows, exact.similarities
        return best


def match_items(
    searcher: Searcher,
    queries: Vectors,
    k: int,
    pools: Sequence[Ids | None],
    min_similarity: float,
    read: Callable[[Ids, Sequence[float]], list[Match]],
) -> list[list[Match]]:
    """Return for each query the k most similar items, each by its best photo, best first.

    Args:
        searcher: of all photos.
        queries: unit rows.
        k: items wanted.
        pools: the photos that each query may find; None for all. Equal pools are the same object.
        min_similarity: matches below it are left out.
        read: makes matches of photos and their similarities.
    """
    check_vectors(queries, searcher.table.dim)
    results: list[list[Match]] = [[] for _ in queries]
    for pool in {id(pool): pool for pool in pools}.values():
        places = np.array([place for place, other in enumerate(pools) if other is pool])
        count = len(searcher.table.live if pool is None else pool)
        fetch = min(max(FETCH, 4 * k if k < count else 0), count)
        while len(places) and fetch:  # more rows, as long as too few items are among them
            found = searcher.search(queries[places], fetch, pool)
            if not found.similarities.max() <= LONGEST:  # nor where they are not numbers
                raise GalleryCorrupt("the gallery's vectors are damaged: some are not unit rows")
            near = Neighbors(found.rows[:, : 2 * k], found.similarities[:, : 2 * k])  # mostly holds k items
            best = _best(searcher.table, near, k, min_similarity)
            if 2 * k < found.rows.shape[1] and min(map(len, best)) < k:
                near, best = found, _best(searcher.table, found, k, min_similarity)
            counts = np.array(list(map(len, best)))
            short = (counts < k) & (found.similarities[:, -1] >= min_similarity) & (fetch < count)
            done = [(query, at) for query in np.flatnonzero(~short).tolist() for at in best[query]]
            at = tuple(np.array(done, np.int64).reshape(-1, 2).T)
            matches = iter(read(near.rows[at], np.minimum(near.similarities[at], 1).tolist()))
            for place, items in zip(places[~short].tolist(), counts[~short].tolist(), strict=True):
                results[place] = list(islice(matches, items))
            places, fetch = places[short], min(8 * fetch, count)
    return results


def _best(table: PhotoTable, found: Neighbors, k: int, min_similarity: float) -> list[list[int]]:
    """Return for each query which of its neighbours are the best photos of the k best items."""
    present = (found.rows >= 0) & (found.similarities >= min_similarity)
    keys = iter(table.keys_of(found.rows[present]).tolist())
    best = []
    for count in present.sum(axis=1).tolist():  # what is present comes before what is not
        firsts = dict[int, int]()
        for place, key in enumerate(islice(keys, count)):
            firsts.setdefault(key, place)
        best.append(list(islice(firsts.values(), k)))
    return best


def near_duplicates(searcher: Searcher, pool: Ids | None, similarity: float) -> list[list[tuple[int, float]]]:
    """Return groups of photos, largest first, each photo with its similarity to the nearest other of its group.

    Two photos are in one group where a chain of pairs at least as similar as that leads from one to the other.
    """
    every = searcher.table.live if pool is None else pool
    sets = DisjointSets[int](every.tolist())
    nearest = dict.fromkeys(every.tolist(), -1.0)
    for start in range(0, len(every), DUPLICATES):
        ids = every[start : start + DUPLICATES]
        vectors = searcher.table.take(ids)
        todo, fetch = np.arange(len(ids)), min(16, len(every))
        while len(todo):
            found = searcher.search(vectors[todo], fetch, pool)
            close = (found.similarities >= similarity) & (found.rows != ids[todo, None])
            photos, others = np.broadcast_to(ids[todo, None], close.shape)[close], found.rows[close]
            for photo, other, near in zip(
                photos.tolist(), others.tolist(), found.similarities[close].tolist(), strict=True
            ):
                sets.join(photo, other)
                nearest[photo] = max(nearest[photo], near)
                nearest[other] = max(nearest[other], near)
            todo = todo[found.similarities[:, -1] >= similarity] if fetch < len(every) else todo[:0]
            fetch = min(8 * fetch, len(every))
    return [[(number, nearest[number]) for number in group] for group in sets.groups()]
