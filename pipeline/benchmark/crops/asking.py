"""Every query is asked under every condition; a garment that was missed is a failure, on either side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.benchmark.crops.conditions import BOX, TRUTH, Condition, conditions_of
from pipeline.benchmark.crops.looking import Seen
from stages.embed.metrics import Ints, Retrieval, SimilarityFunction, retrieve
from stages.embed.rows import numbered

RANKS: Final = (1, 5, 20)

ALL: Final = "all"
BOTH: Final = "found by all detectors"
"""Which garments ask and are found: every one, or those that no detector misses."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """How the queries of a set fared, by condition; the same queries, in the same order, for each.

    Attributes:
        data: name of the set.
        clutter: of its backgrounds, where it is known; None too where several are taken together.
        among: :data:`ALL` or :data:`BOTH`.
        labels: of each query.
        units: of each query, what the bootstrap draws again.
        missed: by detections, queries that were not found in their photos.
        outcomes: by condition.
    """

    data: str
    clutter: float | None
    among: str
    labels: tuple[str, ...]
    units: tuple[str, ...]
    missed: Mapping[str, NDArray[np.bool_]]
    outcomes: Mapping[Condition, Retrieval]


def answers(seen: Seen, embedders: list[str], among: str = ALL) -> Answers | None:
    """Ask every query under every condition; None where nobody can ask."""
    garments, detections = seen.garments, seen.detections
    kept = np.ones(len(garments), np.bool_)
    if among == BOTH:
        detected = [seen.there[source, BOX] for source in detections if source != TRUTH]
        kept = reduce(np.logical_and, detected, kept)
    items = numbered([one.item for one in garments])
    asks = np.array([one.asks for one in garments]) & kept
    found = np.array([one.found for one in garments]) & kept
    in_gallery = np.bincount(items[found], minlength=items.max() + 1)
    asks &= in_gallery[items] - found > 0
    if not asks.any():
        return None
    wanted = [one for name in embedders for one in conditions_of(name, detections, seen.there)]
    queries = np.flatnonzero(asks)
    return Answers(
        seen.data.name,
        seen.data.clutter,
        among,
        tuple(garments[row].label for row in queries),
        tuple(garments[row].unit or garments[row].item for row in queries),
        {source: ~there[queries] for (source, crop), there in seen.there.items() if crop == BOX},
        {one: _ask(similarity(seen, one, items), items, asks, found) for one in wanted},
    )


def similarity(seen: Seen, condition: Condition, items: NDArray[np.int64]) -> SimilarityFunction:
    """How alike queries and gallery are: minus infinity for what was missed, and for other garments of the query's photo.

    Ints beyond the garments are strangers, as far away as what was missed: ties count against the embedder, so that
    they stand before it.
    """
    query, gallery = condition.keys
    asking, asked = seen.vectors[condition.embedder, query], seen.vectors[condition.embedder, gallery]
    photos, count = seen.photos, len(seen.garments)

    def likeness(rows: Ints, others: Ints) -> NDArray[np.float32]:
        alike = np.full((len(rows), len(others)), -np.inf, np.float32)
        real = others[others < count]
        near = np.round(asking[rows] @ asked[real].T, 6)  # equal vectors are equally near, whatever the order of sums
        near[~seen.there[query][rows]] = -np.inf
        near[:, ~seen.there[gallery][real]] = -np.inf
        beside = (photos[rows][:, None] == photos[real]) & (items[rows][:, None] != items[real])
        near[beside] = -np.inf
        alike[:, others < count] = near
        return alike

    return likeness


def _ask(
    likeness: SimilarityFunction, items: NDArray[np.int64], asks: NDArray[np.bool_], found: NDArray[np.bool_]
) -> Retrieval:
    strangers = len(items) + max(RANKS)
    return retrieve(
        likeness,
        np.concatenate([items, np.full(strangers, -1)]),
        np.concatenate([asks, np.zeros(strangers, np.bool_)]),
        np.concatenate([found, np.ones(strangers, np.bool_)]),
    )


def together(levels: list[Answers]) -> Answers:
    """The queries of several sets as one; they were asked under the same conditions."""
    first = levels[0]
    shared = [one for one in first.outcomes if all(one in other.outcomes for other in levels)]
    return Answers(
        first.data,
        None,
        first.among,
        tuple(label for one in levels for label in one.labels),
        tuple(unit for one in levels for unit in one.units),
        {source: np.concatenate([one.missed[source] for one in levels]) for source in first.missed},
        {condition: _joined([one.outcomes[condition] for one in levels]) for condition in shared},
    )


def _joined(parts: list[Retrieval]) -> Retrieval:
    return Retrieval(
        np.concatenate([part.queries for part in parts]),
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.average_precisions for part in parts]),
    )
