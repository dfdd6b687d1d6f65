"""Layers after the backbone: pooling of feature maps, heads that make vectors, and pair heads that compare them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised-mean pooling (Radenovic, Tolias, Chum 2018, eq. 3): ``(mean(x ** p)) ** (1 / p)``.

    p = 1 is the average, p → ∞ the maximum; p is learned. Always in float32, since powers overflow in less.
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
    "flatten": nn.Flatten,  # keeps every position, which ties the network to one input size
}
"""Poolings by name."""

HIDDEN: Final = 512
"""Width of the hidden layer, in heads that have one."""


def _linear(width: int, dim: int) -> nn.Module:
    layer = nn.Linear(width, dim)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _elu(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, dim))


class _Sigmoid(nn.Module):
    """A sigmoid in float32: bfloat16 would round away differences near a half."""

    def forward(self, features: Tensor) -> Tensor:
        return features.float().sigmoid()


def _sigmoid(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, dim), _Sigmoid())


HEADS: Final[Mapping[str, Callable[[int, int], nn.Module]]] = {
    "linear": _linear,
    "elu": _elu,  # with a hidden layer of 512 ELU
    "sigmoid": _sigmoid,  # Koch et al. 2015; vectors without unit length, compared by a pair head
}
"""Heads by name, each built from the widths of its input and output."""

UNIT: Final = frozenset({"linear", "elu"})
"""Heads whose vectors the network scales to unit length."""


class PairHead(nn.Module):
    """From two vectors to the logit of the probability that they show the same identity, by ``|a − b|``.

    Symmetric by construction. Koch, Zemel and Salakhutdinov 2015, section 3.1, have no hidden layer. Takes
    ``(n, dim)`` and ``(n, dim)``, and returns ``(n,)``.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Compare row by row."""
        logits: Tensor = self.layers((left - right).abs())
        return logits.squeeze(-1)


PAIR_HEADS: Final[Mapping[str, Callable[[int], PairHead]]] = {
    "linear": lambda dim: PairHead(nn.Linear(dim, 1)),
    "relu": lambda dim: PairHead(nn.Sequential(nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))),
}
"""Pair heads by name, each built from the width of the vectors."""
