"""How alike photos are, by their rows: what all measuring is built on, whether by vectors or by a network for pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.types import Vectors

Rows: TypeAlias = NDArray[np.int64]

Likeness: TypeAlias = Callable[[Rows, Rows], NDArray[np.float32]]
"""Rows ``(a,)`` and rows ``(b,)`` to similarities ``(a, b)``, higher is closer."""


def by_vectors(vectors: Vectors) -> Likeness:
    """The inner product of unit rows.

    >>> by_vectors(np.eye(2, dtype=np.float32))(np.array([0]), np.array([0, 1]))
    array([[1., 0.]], dtype=float32)
    """

    def likeness(rows: Rows, others: Rows) -> NDArray[np.float32]:
        found: NDArray[np.float32] = vectors[rows] @ vectors[others].T
        return found

    return likeness


def by_matrix(similarities: NDArray[np.float32]) -> Likeness:
    """What a matrix ``(n, n)`` says of each row and column."""

    def likeness(rows: Rows, others: Rows) -> NDArray[np.float32]:
        return similarities[np.ix_(rows, others)]

    return likeness
