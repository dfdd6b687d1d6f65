"""Near-duplicates in a gallery, by the vectors that it holds; :mod:`pipeline.dedupe` is for photos not embedded yet."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.searcher import Searcher
from stages.disjoint import DisjointSets

Ids = NDArray[np.int64]

BLOCK: Final = 512
"""Photos that are compared with all others at once."""


def near_duplicates(searcher: Searcher, live: Ids, pool: Ids, similarity: float) -> list[list[tuple[int, float]]]:
    """Groups of ids, largest first, each id with its similarity to the nearest other of its group.

    Two photos are in one group where a chain of pairs at least as similar as that leads from one to the other.
    """
    sets = DisjointSets[int](pool.tolist())
    nearest = dict.fromkeys(pool.tolist(), -1.0)
    for start in range(0, len(pool), BLOCK):
        ids = pool[start : start + BLOCK]
        vectors = searcher.vectors.take(ids)
        todo, fetch = np.arange(len(ids)), min(16, len(pool))
        while len(todo):
            found = searcher.search(vectors[todo], fetch, live, None if pool is live else pool)
            close = (found.similarities >= similarity) & (found.rows != ids[todo, None])
            for number, other, likeness in zip(
                np.broadcast_to(ids[todo, None], close.shape)[close].tolist(),
                found.rows[close].tolist(),
                found.similarities[close].tolist(),
                strict=True,
            ):
                sets.join(number, other)
                nearest[number] = max(nearest[number], likeness)
                nearest[other] = max(nearest[other], likeness)
            todo = todo[found.similarities[:, -1] >= similarity] if fetch < len(pool) else todo[:0]
            fetch = min(8 * fetch, len(pool))
    return [[(number, nearest[number]) for number in group] for group in sets.groups()]
