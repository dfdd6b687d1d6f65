"""Losses on pairs: same or different."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.embed.losses.distances import Distance
from stages.embed.mining import Miner
from stages.embed.relations import Pairs, Relations


class Contrastive(nn.Module):
    """Hadsell, Chopra, LeCun 2006, eq. 4: ``½ d²`` of the same thing, ``½ max(0, margin − d)²`` of different ones.

    Pairs of the same thing weigh half of the whole, pairs of different ones the other half, however many there are.
    So a constant distance loses ``margin² / 8`` at least, at ``margin / 2``: a loss that stays there has learnt nothing.

    Args:
        margin: the distance beyond which different things are left alone.
        distance: of two vectors.
        miner: chooses triplets, whose pairs are learnt from. None: all pairs.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner | None = None) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The loss of a batch; 0 where it has no pairs."""
        distances = self._distance(vectors)
        left, right, same = _chosen(distances, relations, self._miner)
        apart = distances[left, right]
        return _balanced(0.5 * torch.where(same, apart, (self._margin - apart).clamp(min=0.0)).square(), same)


class PairEntropy(nn.Module):
    """Binary cross-entropy of a pair head (Koch, Zemel, Salakhutdinov 2015, section 3.2), both classes alike.

    A miner goes by the head's own logits. Were it to go by the distance of vectors, positives that are far and negatives
    that are near would teach the head to take far for same.

    Args:
        compare: two batches of vectors to logits; the network's pair head, which is symmetric and keeps its own
            parameters.
        miner: chooses triplets, whose pairs are learnt from. None: all pairs.
    """

    def __init__(self, compare: Callable[[Tensor, Tensor], Tensor], miner: Miner | None = None) -> None:
        super().__init__()
        self._compare, self._miner = compare, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The loss of a batch; 0 where it has no pairs."""
        same, related = relations.positive, relations.positive | relations.negative
        left, right = (related | related.T).triu().nonzero(as_tuple=True)  # any two once
        logits = self._compare(vectors[left], vectors[right])
        same = (same | same.T)[left, right]
        if self._miner is not None:
            places = torch.zeros(related.shape, dtype=torch.int64, device=left.device)
            places[left, right] = places[right, left] = torch.arange(len(left), device=left.device)
            anchors, positives, negatives = self._miner(-logits.detach()[places], relations)
            chosen = torch.cat([places[anchors, positives], places[anchors, negatives]])
            logits, same = logits[chosen], same[chosen]
        return _balanced(F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none"), same)


def _chosen(distances: Tensor, relations: Relations, miner: Miner | None) -> Pairs:
    if miner is None:
        return relations.pairs()
    anchors, positives, negatives = miner(distances.detach(), relations)
    same = torch.arange(2 * len(anchors), device=anchors.device) < len(anchors)
    return Pairs(anchors.repeat(2), torch.cat([positives, negatives]), same)


def _balanced(losses: Tensor, same: Tensor) -> Tensor:
    """The mean of the means over the same and over different pairs, of those that there are."""
    counts = torch.stack([same.sum(), (~same).sum()])
    sums = torch.stack([losses[same].sum(), losses[~same].sum()])
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
