"""Pooling: from a map of features to one vector, ``(n, channels, h, w)`` → ``(n, width)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised-mean pooling (Radenovic, Tolias, Chum 2018, eq. 3): ``(mean(x ** p)) ** (1 / p)``.

    p = 1 is the average, p → ∞ the maximum; p is learned. Always computed in float32: powers overflow in less.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool each channel over its positions."""
        with torch.autocast(features.device.type, enabled=False):
            powers = features.float().clamp(min=self.eps).pow(self.p)
            return powers.mean(dim=(-2, -1)).pow(1.0 / self.p)


class Average(nn.Module):
    """The mean of each channel over its positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool each channel over its positions."""
        return features.mean(dim=(-2, -1))


POOLINGS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "gem": GeM,
    "average": Average,
    "flatten": nn.Flatten,  # every position by itself: the network is tied to the size that it was made for
}
"""Every pooling by its name."""
