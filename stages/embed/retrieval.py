"""Retrieval: which photos come first when each asks for its like. Ties count against the embedder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.embed.likeness import Likeness, by_vectors
from stages.types import Vectors

_BLOCK: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """How each query fared.

    ``queries`` ``(q,)`` are the rows that asked; ``ranks`` ``(q,)`` the place of the first photo of their own, from
    1; ``average_precisions`` ``(q,)`` the precision at R of each place of the first R that is right, summed and
    divided by R, where R photos are right (Musgrave, Belongie, Lim 2020, "A Metric Learning Reality Check", eq. 1).
    """

    queries: NDArray[np.int64]
    ranks: NDArray[np.int64]
    average_precisions: NDArray[np.float64]

    def hits(self, k: int) -> NDArray[np.float64]:
        """1 for each query with a photo of its own among the k nearest, else 0; its mean is recall@k."""
        return (self.ranks <= k).astype(np.float64)


def retrieve(
    likeness: Likeness,
    labels: NDArray[np.int64],
    queries: NDArray[np.bool_] | None = None,
    gallery: NDArray[np.bool_] | None = None,
) -> Retrieval:
    """Let photos ask for others of their label. A photo is no neighbour of its own.

    Photos that have no other of their label in the gallery do not ask; in the gallery they are distractors.

    Args:
        likeness: of the photos, by row.
        labels: ``(n,)``.
        queries: ``(n,)``, which photos may ask; all where it is None.
        gallery: ``(n,)``, which photos may be found; all where it is None.

    Raises:
        ValueError: no photo can ask.
    """
    everyone = np.ones(len(labels), np.bool_)
    found = np.flatnonzero(everyone if gallery is None else gallery)
    asking = np.flatnonzero(everyone if queries is None else queries)
    _, codes = np.unique(labels, return_inverse=True)
    in_gallery = np.bincount(codes[found], minlength=codes.max(initial=0) + 1)
    itself = np.zeros(len(labels), np.int64)
    itself[found] = 1
    asking = asking[in_gallery[codes[asking]] - itself[asking] > 0]
    if not len(asking):
        raise ValueError("retrieval needs a label that comes twice at least, as query and in the gallery; got none")
    ranks, precisions = [], []
    for start in range(0, len(asking), _BLOCK):
        block = asking[start : start + _BLOCK]
        for query, similarities in zip(block, likeness(block, found), strict=True):
            places = _places(similarities, codes[found] == codes[query], found == query)
            ranks.append(places[0])
            inside = places[places <= len(places)]
            precisions.append((np.arange(1, len(inside) + 1) / inside).sum() / len(places))
    return Retrieval(asking, np.array(ranks, np.int64), np.array(precisions, np.float64))


def _places(
    similarities: NDArray[np.float32], right: NDArray[np.bool_], itself: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The places, from 1, of the photos that are right, each behind all wrong ones that are as near."""
    wrong = np.sort(similarities[~right])
    own = np.sort(similarities[right & ~itself])[::-1]
    before = len(wrong) - np.searchsorted(wrong, own, side="left")
    places: NDArray[np.int64] = before + np.arange(1, len(own) + 1)
    return places


def recall_at(vectors: Vectors, labels: NDArray[np.int64], ranks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Recall@k of all photos among all others: the share of queries with one of their label among the k nearest.

    Raises:
        ValueError: no label comes twice.
    """
    found = retrieve(by_vectors(vectors), labels)
    return {k: float(found.hits(k).mean()) for k in ranks}
