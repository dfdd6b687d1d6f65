"""Input checks of all indexes; each raises a ValueError that says what was wanted and what was given."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

UNIT_TOLERANCE = 1e-3
"""How far a vector's length may be from 1; float16 storage and float32 sums stay well within."""

SHORTEST, LONGEST = (1 - UNIT_TOLERANCE) ** 2, (1 + UNIT_TOLERANCE) ** 2
"""The squared lengths that a vector may have."""


def check_dim(dim: int) -> None:
    """Refuse vectors without a dimension."""
    if dim < 1:
        raise ValueError(f"an index wants vectors at least 1 wide, got dim={dim}")


def check_k(k: int) -> None:
    """Refuse a search for less than one neighbor."""
    if k < 1:
        raise ValueError(f"a search wants at least k=1 neighbor, got k={k}")


def check_vectors(vectors: NDArray[np.float32], dim: int) -> None:
    """Refuse anything but ``(n, dim)`` float32 unit rows."""
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
        got = getattr(vectors, "dtype", type(vectors).__name__)
        raise ValueError(f"vectors are a float32 array, got {got}; convert them with astype(numpy.float32)")
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"wanted vectors of shape (n, {dim}), got {vectors.shape}; one vector is vector[None]")
    squares = np.einsum("nd,nd->n", vectors, vectors)  # part of every search, so it is kept short
    if len(squares) and not (squares.min() >= SHORTEST and squares.max() <= LONGEST):  # False for NaN and infinity too
        first = int(np.argmin((squares >= SHORTEST) & (squares <= LONGEST)))
        raise ValueError(
            f"vectors are unit rows: row {first} has length {np.sqrt(squares[first]):g};"
            " divide each by its length, and leave out zero and non-finite ones"
        )


def check_new(rows: NDArray[np.int64], vectors: NDArray[np.float32], dim: int, live: Container[int]) -> None:
    """Refuse rows that are in the index already, and vectors that do not fit."""
    _check_rows(rows)
    check_vectors(vectors, dim)
    if len(rows) != len(vectors):
        raise ValueError(f"wanted one row number per vector, got {len(rows)} rows and {len(vectors)} vectors")
    if known := [row for row in rows.tolist() if row in live]:
        raise ValueError(f"row {known[0]} is in the index already ({len(known)} such); remove it first")


def check_known(rows: NDArray[np.int64], live: Container[int]) -> None:
    """Refuse rows that are not in the index."""
    _check_rows(rows)
    if unknown := [row for row in rows.tolist() if row not in live]:
        raise ValueError(f"row {unknown[0]} is not in the index ({len(unknown)} such)")


def _check_rows(rows: NDArray[np.int64]) -> None:
    """Refuse anything but ``(n,)`` int64 row numbers, each given once and not negative."""
    if not isinstance(rows, np.ndarray) or rows.dtype != np.int64 or rows.ndim != 1:
        got = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"rows are an int64 array of shape (n,), got {got}")
    if rows.size and rows.min() < 0:
        raise ValueError(f"row numbers are 0 or more, got {rows.min()}")
    values, counts = np.unique(rows, return_counts=True)
    if len(values) != len(rows):
        raise ValueError(f"row {values[counts > 1][0]} is given twice in one call")
