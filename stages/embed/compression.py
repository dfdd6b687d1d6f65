"""Smaller vectors: fewer numbers, or fewer bits for each; again unit rows, so that they are compared as ever."""

from __future__ import annotations

import numpy as np

from stages.types import Vectors


def truncated(vectors: Vectors, dim: int) -> Vectors:
    """The first ``dim`` numbers of each row, as unit rows.

    Raises:
        ValueError: there are not so many.

    >>> truncated(np.array([[0.6, 0.0, 0.8]], np.float32), 2)
    array([[1., 0.]], dtype=float32)
    """
    if not 1 <= dim <= vectors.shape[1]:
        raise ValueError(f"wanted between 1 and {vectors.shape[1]} of the {vectors.shape[1]} dimensions, got {dim}")
    return _unit(vectors[:, :dim])


def through_int8(vectors: Vectors) -> Vectors:
    """The rows as they come back from a byte for each number, the largest number of a row being 127."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=np.finfo(np.float32).tiny)
    return _unit(np.rint(vectors * (127 / largest)))


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
