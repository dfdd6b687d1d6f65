"""Near-duplicates: groups of photos of which each is very similar to another of the group."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.searcher import Searcher

Ids = NDArray[np.int64]

BLOCK: Final = 512
"""Photos that are compared with all others at once."""


def near_duplicates(searcher: Searcher, live: Ids, pool: Ids, similarity: float) -> list[list[tuple[int, float]]]:
    """Groups of ids, largest first, each id with its similarity to the nearest other of its group.

    Two photos are in one group where a chain of pairs at least as similar as that leads from one to the other.
    """
    group = {number: number for number in pool.tolist()}
    nearest = dict.fromkeys(group, -1.0)
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
                _join(group, number, other)
                nearest[number] = max(nearest[number], likeness)
                nearest[other] = max(nearest[other], likeness)
            todo = todo[found.similarities[:, -1] >= similarity] if fetch < len(pool) else todo[:0]
            fetch = min(8 * fetch, len(pool))
    groups: dict[int, list[tuple[int, float]]] = {}
    for number in pool.tolist():
        groups.setdefault(_root(group, number), []).append((number, nearest[number]))
    return sorted((members for members in groups.values() if len(members) > 1), key=len, reverse=True)


def _root(group: dict[int, int], number: int) -> int:
    while group[number] != number:
        group[number] = group[group[number]]
        number = group[number]
    return number


def _join(group: dict[int, int], one: int, other: int) -> None:
    group[_root(group, one)] = _root(group, other)
