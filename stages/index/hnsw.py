"""The HNSW index: hnswlib, with checks where it fails silently.

Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
Small World graphs", TPAMI 2020.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import hnswlib
import numpy as np
from numpy.typing import NDArray

from stages.cores import cores, thread_cores
from stages.errors import GalleryCorrupt, GalleryError
from stages.files import replacing
from stages.index.checks import check_dim, check_k, check_known, check_new, check_vectors
from stages.index.exact import exact_search, merge, no_neighbors
from stages.types import Neighbors, Vectors

EXACT_BELOW: Final = 1000
"""Indexes of fewer live rows are searched exactly, which is as fast and never wrong."""

ALONE_UP_TO: Final = 1000
"""Up to so many vectors are added by a single thread, so that small graphs are reproducible."""

MOST_EDGES: Final = 10_000
"""The most edges per node that hnswlib accepts."""

BLOCK_ROWS: Final = 8192
"""Rows that an exact search copies from hnswlib at once."""


class HnswIndex:
    """A graph of neighbors, searched greedily: nearly exact, and fast for millions of rows.

    Recall improves with ``m``, the edges per node, which costs memory (about ``8 m`` bytes per row), with
    ``ef_construction``, which costs build time, and with ``ef_search``, which costs search time. The search is exact if the
    index is small, if k is a large part of it, or if the graph returns too few rows. Searches may run concurrently, but not
    during an addition or a removal.

    Raises:
        ValueError: a parameter is impossible, or see :mod:`stages.index.checks`.

    >>> index = HnswIndex(dim=2)
    >>> index.add(np.array([7, 9]), np.eye(2, dtype=np.float32))
    >>> index.search(np.eye(2, dtype=np.float32)[1:], k=3).rows
    array([[ 9,  7, -1]])
    """

    def __init__(self, dim: int, m: int = 16, ef_construction: int = 200, ef_search: int = 128, seed: int = 0) -> None:
        check_dim(dim)
        if not 2 <= m <= MOST_EDGES or ef_construction < 1 or ef_search < 1:
            raise ValueError(
                f"HNSW wants m from 2 to {MOST_EDGES}, ef_construction >= 1 and ef_search >= 1,"
                f" got m={m}, ef_construction={ef_construction}, ef_search={ef_search}"
            )
        self.dim, self._ef_search = dim, ef_search
        self._graph: Any = hnswlib.Index(space="ip", dim=dim)
        self._graph.init_index(max_elements=EXACT_BELOW, M=m, ef_construction=ef_construction, random_seed=seed)
        self._graph.set_ef(ef_search)  # hnswlib raises it to k
        self._live: set[int] = set()
        self._removed: set[int] = set()
        self._small: tuple[NDArray[np.int64], Vectors] | None = None  # all live rows and their vectors, cached

    def __len__(self) -> int:
        return len(self._live)

    def add(self, rows: NDArray[np.int64], vectors: Vectors) -> None:
        """Store vectors under new row numbers; a row that was removed earlier is moved within the graph."""
        check_new(rows, vectors, self.dim, self._live)
        count, space = len(self._live) + len(self._removed) + len(rows), self._graph.get_max_elements()
        if count > space:  # doubled, so that adding row by row takes linear time
            self._graph.resize_index(max(count, 2 * space))
        self._small = None
        back = np.fromiter((row in self._removed for row in rows.tolist()), dtype=np.bool_, count=len(rows))
        with self._unmarked():
            # hnswlib's replace_deleted is not used: a search after it has returned one label twice.
            for part, threads in ((back, 1), (~back, 1 if len(rows) <= ALONE_UP_TO else cores())):
                if part.any():
                    self._graph.add_items(vectors[part], rows[part], num_threads=threads)
            self._removed.difference_update(rows.tolist())
        self._live.update(rows.tolist())

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows from the results; they stay in the graph, and in memory, for searches to pass through."""
        check_known(rows, self._live)
        self._small = None
        for row in rows.tolist():
            self._graph.mark_deleted(row)
        self._live.difference_update(rows.tolist())
        self._removed.update(rows.tolist())

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """Return the k nearest live rows of each query, best first, padded with row -1."""
        check_vectors(queries, self.dim)
        check_k(k)
        if len(queries) == 0 or len(self) < EXACT_BELOW or 2 * k > len(self):
            return self._search_exactly(queries, k)
        try:
            rows, distances = self._graph.knn_query(queries, k=k, num_threads=thread_cores())
        except RuntimeError:  # "Cannot return the results in a contiguous 2D array": there are too few
            return self._search_exactly(queries, k)
        similarities = np.subtract(1, distances, out=distances)
        result = Neighbors(rows.view(np.int64), similarities)  # by falling similarity, equal ones by row
        if similarities.max() <= 1 and similarities.min() >= -1:
            return result
        np.clip(similarities, -1, 1, out=similarities)  # those beyond by rounding become equal, and are sorted again
        return merge(no_neighbors(len(queries), k), result)

    def save(self, path: Path | str) -> None:
        """Write the index to a file, atomically.

        Raises:
            GalleryError: the file cannot be written.
        """
        path = Path(path)
        try:
            with replacing(path) as part:
                self._graph.save_index(os.fsencode(part))  # it reports no failure, so the size is checked
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                if part.stat().st_size != self._graph.index_file_size():
                    raise GalleryError(f"cannot write the index {path.name}: it is incomplete; is the disk full?")
        except (OSError, RuntimeError) as error:
            raise GalleryError(f"cannot write the index {path.name}: {error}") from error

    def load(self, path: Path | str, rows: NDArray[np.int64]) -> None:
        """Restore what :meth:`save` wrote when these rows were stored.

        hnswlib trusts the file: load only one that was saved on this machine and has not changed since.

        Raises:
            GalleryCorrupt: the file cannot be read, or does not hold the rows.
        """
        path, graph = Path(path), hnswlib.Index(space="ip", dim=self.dim)
        try:
            graph.load_index(os.fsencode(path), max_elements=max(EXACT_BELOW, len(rows)))
            held = np.array(graph.get_ids_list(), np.int64)
        except (RuntimeError, MemoryError) as error:
            raise GalleryCorrupt(f"cannot load the index {path.name}: {error}") from error
        if not np.isin(rows, held).all():
            raise GalleryCorrupt(f"the index {path.name} lacks rows that it should hold")
        graph.set_ef(self._ef_search)
        self._graph, self._small = graph, None
        self._live = set(rows.tolist())
        self._removed = set(held.tolist()) - self._live

    def _search_exactly(self, queries: Vectors, k: int) -> Neighbors:
        result = no_neighbors(len(queries), k)
        for rows, vectors in self._blocks():
            near = exact_search(vectors, queries, min(k, len(rows)))
            result = merge(result, Neighbors(rows[near.rows], near.similarities))
        return result

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Yield all live rows with their vectors: few rows at once, and cached; more in blocks."""
        rows = np.fromiter(self._live, dtype=np.int64, count=len(self))
        if len(rows) >= EXACT_BELOW:
            for start in range(0, len(rows), BLOCK_ROWS):
                part = rows[start : start + BLOCK_ROWS]
                yield part, self._graph.get_items(part)
        elif len(rows):
            small = self._small or (rows, self._graph.get_items(rows))
            self._small = small
            yield small

    @contextmanager
    def _unmarked(self) -> Iterator[None]:
        """Unmark removed rows while others are added.

        hnswlib links a new element to the nearest unmarked ones; where a whole part of the graph is marked, it finds none
        and reads memory that does not belong to it.
        """
        for row in self._removed:
            self._graph.unmark_deleted(row)
        try:
            yield
        finally:
            for row in self._removed:
                self._graph.mark_deleted(row)
