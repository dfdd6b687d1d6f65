"""Vectors to measure an index on: in clusters, as garments are, and the same for the same seed."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stages.types import Vectors

CENTRES: Final = 2000
"""Clusters."""

SPREAD: Final = 0.6
"""The length of what a vector adds to its cluster's centre, which is 1 long: two of a cluster have cosine 0.74."""

BLOCK: Final = 1 << 16
"""Vectors that are drawn at once."""


def clustered(count: int, dim: int, *, seed: int, draw: int = 0) -> Vectors:
    """``(count, dim)`` float32 unit rows: a centre each, and normal noise in every direction around it.

    Args:
        count: how many.
        dim: how wide.
        seed: fixes the centres.
        draw: others around the same centres: queries for vectors.

    >>> clustered(3, 8, seed=1, draw=2).shape
    (3, 8)
    """
    centres = _unit(np.random.default_rng([seed, dim]).standard_normal((CENTRES, dim), np.float32))
    return around(centres, count, SPREAD, np.random.default_rng([seed, dim, draw]))


def around(centres: Vectors, count: int, spread: float, rng: Generator) -> Vectors:
    """``(count, dim)`` float32 unit rows: one of the centres each, and normal noise of about the length ``spread``."""
    dim = centres.shape[1]
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, BLOCK):
        part = vectors[start : start + BLOCK]
        noise = rng.standard_normal(part.shape, np.float32)
        part[:] = _unit(centres[rng.integers(len(centres), size=len(part))] + noise * np.float32(spread / dim**0.5))
    return vectors


def _unit(vectors: NDArray[np.float32]) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
