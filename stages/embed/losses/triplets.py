"""Losses on triplets: the positive nearer than the negative, by a margin."""

from __future__ import annotations

import math

from torch import Tensor, nn

from stages.embed.losses.distances import Distance
from stages.embed.mining import Miner
from stages.embed.relations import Relations


class Triplet(nn.Module):
    """``max(0, d(anchor, positive) − d(anchor, negative) + margin)``, the mean over the triplets of a miner.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), eq. 3, with squared Euclidean distances; Hermans et al. 2017 have
    Euclidean ones.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The loss of a batch; 0 where it has no triplet."""
        distances = self._distance(vectors)
        anchors, positives, negatives = self._miner(distances.detach(), relations)
        excess = distances[anchors, positives] - distances[anchors, negatives] + self._margin
        return excess.clamp(min=0.0).sum() / max(1, len(anchors))


class Quadruplet(nn.Module):
    """Chen, Chen, Zhang, Huang 2017, eq. 3: a triplet, and a pair of negatives that is to be further apart too.

    ``max(0, d(a, p) − d(a, n₁) + margin) + max(0, d(a, p) − d(n₁, n₂) + margin / 2)``, where n₁ is the triplet's
    negative, and n₂ the row nearest to it that is neither its thing nor the anchor's. Without such a row the second
    part is 0.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The loss of a batch; 0 where it has no triplet."""
        distances, labels = self._distance(vectors), relations.labels
        anchors, positives, first = self._miner(distances.detach(), relations)
        third = (labels[None, :] != labels[anchors][:, None]) & (labels[None, :] != labels[first][:, None])
        second = distances.detach()[first].masked_fill(~third, math.inf).argmin(dim=1)
        near, far, across = distances[anchors, positives], distances[anchors, first], distances[first, second]
        triplet = (near - far + self._margin).clamp(min=0.0)
        others = (near - across + self._margin / 2).clamp(min=0.0).masked_fill(~third.any(dim=1), 0.0)
        return (triplet + others).sum() / max(1, len(anchors))
