"""Mining: which triplets of a batch a loss learns from, by the distances that the network has now.

A miner is called with distances ``(n, n)`` and :class:`~stages.embed.relations.Relations`; nothing is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor

from stages.embed.relations import Relations, Triplets

Miner: TypeAlias = Callable[[Tensor, Relations], Triplets]


def every(_distances: Tensor, relations: Relations) -> Triplets:
    """All triplets: where the sampler has arranged triplets, those."""
    return relations.triplets()


def batch_hard(distances: Tensor, relations: Relations) -> Triplets:
    """For each anchor its furthest positive and its nearest negative (Hermans, Beyer, Leibe 2017, eq. 5)."""
    anchors = _complete(relations)
    furthest = distances.masked_fill(~relations.positive, -math.inf)[anchors].argmax(dim=1)
    nearest = distances.masked_fill(~relations.negative, math.inf)[anchors].argmin(dim=1)
    return Triplets(anchors, furthest, nearest)


def semi_hard(distances: Tensor, relations: Relations) -> Triplets:
    """For each anchor and positive the nearest negative further away than the positive.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), eq. 4. Where all negatives are nearer than the positive, the
    furthest of them is taken: the hardest would collapse the network early on.
    """
    anchors, positives = relations.positive.nonzero(as_tuple=True)
    has_negative = relations.negative.any(dim=1)[anchors]
    anchors, positives = anchors[has_negative], positives[has_negative]
    rows, negative = distances[anchors], relations.negative[anchors]
    beyond = negative & (rows > distances[anchors, positives][:, None])
    nearest_beyond = rows.masked_fill(~beyond, math.inf).argmin(dim=1)
    furthest = rows.masked_fill(~negative, -math.inf).argmax(dim=1)
    return Triplets(anchors, positives, torch.where(beyond.any(dim=1), nearest_beyond, furthest))


MINERS: Final[Mapping[str, Miner]] = {
    "all": every,
    "semi-hard": semi_hard,
    "batch-hard": batch_hard,
}
"""Every miner within a batch by its name; offline mining is a sampler's."""


def _complete(relations: Relations) -> Tensor:
    """The rows that have a positive and a negative."""
    return (relations.positive.any(dim=1) & relations.negative.any(dim=1)).nonzero().squeeze(1)
