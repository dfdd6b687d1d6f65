"""Distances between vectors, for losses: all pairs of a batch at once, with finite gradients everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Distance: TypeAlias = Callable[[Tensor], Tensor]
"""``(n, dim)`` → ``(n, n)``, at least 0."""


def squared(vectors: Tensor) -> Tensor:
    """Squared Euclidean; of unit vectors 2 − 2 cos."""
    lengths = vectors.square().sum(dim=1)
    return (lengths[:, None] + lengths[None, :] - 2 * vectors @ vectors.T).clamp(min=0.0)


def euclidean(vectors: Tensor) -> Tensor:
    """Euclidean, by the differences themselves: by way of products, what is near would be lost in float32."""
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")


def cosine(vectors: Tensor) -> Tensor:
    """1 − cos, in [0, 2]."""
    unit = F.normalize(vectors)
    return 1 - unit @ unit.T


DISTANCES: Final[Mapping[str, Distance]] = {"euclidean": euclidean, "squared": squared, "cosine": cosine}
"""Every distance by its name."""
