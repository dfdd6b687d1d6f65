"""Heads: from pooled features to the vector of an image; and pair heads: from two vectors to *same or not*."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor, nn

HIDDEN: Final = 512
"""Width of the hidden layer of the heads that have one."""


def _linear(width: int, dim: int) -> nn.Module:
    layer = nn.Linear(width, dim)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _elu(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, dim))


class _Sigmoid(nn.Module):
    """In float32, whatever comes in: what differs between two sigmoids near a half, bfloat16 rounds away."""

    def forward(self, features: Tensor) -> Tensor:
        return features.float().sigmoid()


def _sigmoid(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, dim), _Sigmoid())


HEADS: Final[Mapping[str, Callable[[int, int], nn.Module]]] = {
    "linear": _linear,
    "elu": _elu,  # 512 ELU between
    "sigmoid": _sigmoid,  # Koch et al. 2015; its vectors have no unit length, and a pair head to compare them
}
"""Every head by its name: made of the width of its input and of its output."""

UNIT: Final = frozenset({"linear", "elu"})
"""Heads whose vectors are scaled to unit length within the network."""


class PairHead(nn.Module):
    """The chance that two vectors show the same thing, from what they differ by: ``|a − b|`` → a logit.

    Symmetric by construction. Koch, Zemel and Salakhutdinov 2015, section 3.1, have it without a hidden layer.

    ``(n, dim)`` and ``(n, dim)`` → ``(n,)`` logits; their sigmoid is the chance.
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
"""Every pair head by its name: made of the width of the vectors."""
