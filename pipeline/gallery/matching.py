"""From similar rows to matches: per item the best photo, of one garment group or all, within a filter."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery import where as filters
from pipeline.gallery.rowstore import Ids, RowStore
from pipeline.gallery.searcher import Searcher
from stages.errors import GalleryCorrupt
from stages.index.checks import check_vectors
from stages.types import Match, Neighbors, Vectors

START: Final = 64
"""Rows that are fetched at least: an item has several."""

LONGEST: Final = 1.01
"""No two unit rows are more similar, however they are stored."""

REMEMBERED: Final = 16
"""Filters whose rows are remembered."""


class Matcher:
    """Answers searches of a gallery.

    Args:
        rows: the gallery's rows.
        searching: gives the search of its vectors, which is made when it is first needed.
        dim: the width of the vectors.
    """

    def __init__(self, rows: RowStore, searching: Callable[[], Searcher], dim: int) -> None:
        self._rows, self._searching, self._dim = rows, searching, dim
        self._pools: dict[tuple[str | None, str | None], Ids] = {}

    def forget(self) -> None:
        """The rows have changed."""
        self._pools.clear()

    def pool(self, label: str | None, where: str | None) -> Ids:
        """The ids of a garment group's rows, or of all, that a filter lets through."""
        if label is None and where is None:
            return self._rows.live
        pool = self._pools.get((label, where))
        if pool is None:
            if len(self._pools) >= REMEMBERED:
                self._pools.clear()
            self._pools[label, where] = pool = self._select(label, where)
        return pool

    def __call__(
        self,
        queries: Vectors,
        k: int,
        labels: Sequence[str | None] | None,
        where: str | None,
        min_similarity: float,
        columns: Container[str] | None = None,
    ) -> list[list[Match]]:
        """For each query the k most similar items at least as similar as that, each by its best photo, best first."""
        if where is not None and columns is not None:
            self._check_columns(where, columns)
        check_vectors(queries, self._dim)
        if labels is not None and len(labels) != len(queries):
            raise ValueError(f"wanted a label for each of {len(queries)} queries, got {len(labels)}")
        every = labels if labels is not None else [None] * len(queries)
        results: list[list[Match]] = [[] for _ in queries]
        for label in dict.fromkeys(every):
            places = np.array([place for place, own in enumerate(every) if own == label])
            self._search(queries, places, k, self.pool(label, where), min_similarity, results)
        return results

    def _search(
        self, queries: Vectors, places: Ids, k: int, pool: Ids, min_similarity: float, results: list[list[Match]]
    ) -> None:
        """Fill the results of some queries, looking at ever more rows while they have too few items."""
        live, fetch = self._rows.live, min(max(START, 4 * k if k < len(pool) else 0), len(pool))
        while len(places) and fetch:
            found = self._searching().search(queries[places], fetch, live, None if pool is live else pool)
            if not found.similarities.max() <= LONGEST:  # nor where they are no numbers
                raise GalleryCorrupt("the gallery's vectors are damaged: some are no unit rows")
            near = Neighbors(found.rows[:, : 2 * k], found.similarities[:, : 2 * k])  # mostly has k items
            best = self._best(near, k, min_similarity)
            if 2 * k < found.rows.shape[1] and min(map(len, best)) < k:
                near, best = found, self._best(found, k, min_similarity)
            counts = np.array([len(own) for own in best])
            short = (counts < k) & (found.similarities[:, -1] >= min_similarity) & (fetch < len(pool))
            done = [(query, at) for query, more in enumerate(short.tolist()) if not more for at in best[query]]
            at = tuple(np.array(done, np.int64).reshape(-1, 2).T)
            matches = iter(self._rows.matches(near.rows[at], np.minimum(near.similarities[at], 1)))
            for place, count in zip(places[~short].tolist(), counts[~short].tolist(), strict=True):
                results[place] = list(islice(matches, count))
            places, fetch = places[short], min(8 * fetch, len(pool))

    def _best(self, found: Neighbors, k: int, min_similarity: float) -> list[list[int]]:
        """For each query which of its neighbours are the best rows of their items, of the k best items."""
        there = (found.rows >= 0) & (found.similarities >= min_similarity)
        items = iter(self._rows.item_numbers(found.rows[there]).tolist())
        best = []
        for count in there.sum(axis=1).tolist():  # what is there comes before what is not
            firsts = dict[int, int]()
            for place, item in enumerate(islice(items, count)):
                firsts.setdefault(item, place)
            best.append(list(islice(firsts.values(), k)))
        return best

    def _select(self, label: str | None, where: str | None) -> Ids:
        ids = np.concatenate([np.zeros(0, np.int64), *(table.ids[places] for table, places in self._rows.view())])
        wanted = np.ones(len(ids), np.bool_)
        if label is not None:
            codes, values = self._rows.column("label")
            wanted &= np.array([*(value == label for value in values), False], np.bool_)[codes]
        if where is not None:
            wanted &= filters.parse(where).mask(self._look)
        return np.sort(ids[wanted])

    def _check_columns(self, where: str, columns: Container[str]) -> None:
        """Refuse a filter that names a column which its author may not know of."""

        def look(name: str) -> tuple[NDArray[np.int32], list[str]]:
            known = [column for column in self._rows.names() if column in columns]
            if name.casefold() not in map(str.casefold, known):
                raise ValueError(f"there is no column {name!r}; there are {', '.join(known)}")
            return np.zeros(0, np.int32), []

        filters.parse(where).mask(look)

    def _look(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        names = self._rows.names()
        folded = {known.casefold(): column for known, column in names.items()}
        column = names.get(name) or folded.get(name.casefold())
        if column is None:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(names)}")
        return self._rows.column(column)
