"""The exact index, which compares every query with every vector; the reference for the other indexes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.index.checks import check_dim, check_k, check_known, check_new, check_vectors
from stages.types import Neighbors, Vectors

BLOCK: Final = 1 << 22
"""Similarities held at once: 16 MiB, however many queries and vectors there are."""

QUERIES: Final = 256
"""Queries multiplied at once."""


def exact_search(vectors: Vectors, queries: Vectors, k: int) -> Neighbors:
    """Return the k rows of ``vectors`` nearest to each query, as positions in it, best first.

    Equal similarities are ordered by position. The vectors have to be unit rows, which is not checked.

    Raises:
        ValueError: k < 1, or the queries are not unit rows as wide as the vectors.

    >>> axes = np.eye(3, dtype=np.float32)
    >>> exact_search(axes, axes[1:2], k=1)
    Neighbors(rows=array([[1]]), similarities=array([[1.]], dtype=float32))
    """
    if vectors.ndim != 2:
        raise ValueError(f"wanted vectors of shape (n, dim), got {vectors.shape}")
    check_vectors(queries, vectors.shape[1])
    check_k(k)
    result = no_neighbors(len(queries), k)
    for first in range(0, len(queries), QUERIES):
        part = queries[first : first + QUERIES]
        best, step = no_neighbors(len(part), k), max(1, BLOCK // len(part))
        for start in range(0, len(vectors), step):
            near = np.clip(part @ vectors[start : start + step].T, -1, 1)
            kept = min(k, near.shape[1])
            where = np.argpartition(near, -kept, axis=1)[:, -kept:]
            best = merge(best, Neighbors(where.astype(np.int64) + start, np.take_along_axis(near, where, axis=1)))
        result.rows[first : first + QUERIES], result.similarities[first : first + QUERIES] = (
            best.rows,
            best.similarities,
        )
    return result


def no_neighbors(count: int, k: int) -> Neighbors:
    """Return ``(count, k)`` neighbors that are all padding."""
    return Neighbors(np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf, dtype=np.float32))


def merge(best: Neighbors, others: Neighbors) -> Neighbors:
    """Return the best neighbors of both for each query, as many as ``best`` has, best first; equal ones by row."""
    k = best.rows.shape[1]
    rows = np.concatenate([best.rows, others.rows], axis=1)
    similarities = np.concatenate([best.similarities, others.similarities], axis=1)
    order = np.lexsort((rows, -similarities), axis=1)[:, :k]
    return Neighbors(np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1))


class ExactIndex:
    """Vectors in one matrix; a removal moves the last vector into the gap.

    Raises:
        ValueError: see :mod:`stages.index.checks`.

    >>> index = ExactIndex(dim=2)
    >>> index.add(np.array([7, 9]), np.eye(2, dtype=np.float32))
    >>> index.search(np.eye(2, dtype=np.float32)[1:], k=3).rows
    array([[ 9,  7, -1]])
    """

    def __init__(self, dim: int) -> None:
        check_dim(dim)
        self.dim = dim
        self._positions: dict[int, int] = {}
        self._rows = np.empty(0, dtype=np.int64)
        self._vectors = np.empty((0, dim), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._positions)

    def add(self, rows: NDArray[np.int64], vectors: Vectors) -> None:
        """Store vectors under new row numbers."""
        check_new(rows, vectors, self.dim, self._positions)
        start, end = len(self), len(self) + len(rows)
        if end > len(self._rows):  # doubled, so that adding row by row takes linear time
            more = max(end, 2 * len(self._rows)) - len(self._rows)
            self._rows = np.concatenate([self._rows, np.empty(more, dtype=np.int64)])
            self._vectors = np.concatenate([self._vectors, np.empty((more, self.dim), dtype=np.float32)])
        self._rows[start:end], self._vectors[start:end] = rows, vectors
        self._positions.update(zip(rows.tolist(), range(start, end), strict=True))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows."""
        check_known(rows, self._positions)
        for row in rows.tolist():
            gap, last = self._positions.pop(row), len(self)
            if gap != last:
                self._rows[gap], self._vectors[gap] = self._rows[last], self._vectors[last]
                self._positions[int(self._rows[gap])] = gap

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """Return the k nearest rows of each query, best first, padded with row -1."""
        result = exact_search(self._vectors[: len(self)], queries, k)
        present = result.rows >= 0
        result.rows[present] = self._rows[result.rows[present]]
        return result
