"""How good an embedder is: retrieval, verification and one-shot figures of a photo set, with their intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.embed.compression import through_int8, truncated
from stages.embed.intervals import Estimate, mean_estimate
from stages.embed.items import Sample
from stages.embed.likeness import Likeness, by_vectors
from stages.embed.oneshot import OneShot, one_shot
from stages.embed.retrieval import Retrieval, retrieve
from stages.embed.rows import numbered
from stages.embed.verification import Pairs, Verification, pairs_of, verify
from stages.types import Vectors

RANKS: Final = (1, 5, 10, 20, 50)
"""The k of the recall@k that are told."""

SHORT_DIM: Final = 64

Sort: TypeAlias = Literal["item", "style", "label"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Args:
        same: what two photos have to share to be of one.
        query_domain: whose photos ask; all where it is empty.
        gallery_domain: whose photos are found, distractors apart; all where it is empty.
        ways: of the one-shot trials; those that there are too few classes for are left out.
        within_label: one-shot trials stay within a label, as Omniglot's within an alphabet.
        two_sources: their examples come from one source, the photo that asks from another, as Omniglot's drawers.
        trials: of each.
        seed: of every draw.
    """

    same: Sort = "item"
    query_domain: str = ""
    gallery_domain: str = ""
    ways: tuple[int, ...] = (5, 9, 20)
    within_label: bool = False
    two_sources: bool = False
    trials: int = 10_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """Retrieval figures: recall@k and mAP@R."""

    queries: int
    recall: dict[int, Estimate]
    map_at_r: Estimate


@dataclass(frozen=True, slots=True)
class Cost:
    """Recall@1 with smaller vectors, and what they lose by it: a difference with its own interval."""

    recall: float
    loss: Estimate


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """One label's photos as queries, among all; its own pairs for verification, None where there are too few."""

    photos: int
    measure: Measure | None
    auc: Estimate | None
    eer: Estimate | None


@dataclass(frozen=True, slots=True, eq=False)
class EmbedderEvaluation:
    """All that was measured, and for pictures what it was measured from.

    ``row_labels`` ``(n,)`` are equal for photos that are the same, ``gallery`` the rows that can be found.
    """

    photos: int
    items: int
    distractors: int
    measures: dict[Sort, Measure]
    verification: Verification
    one_shot: tuple[OneShot, ...]
    costs: dict[str, Cost]
    labels: dict[str, LabelFigures]
    collapsed: bool
    pairs: Pairs
    retrieval: Retrieval
    row_labels: NDArray[np.int64]
    gallery: NDArray[np.int64]
    notes: tuple[str, ...] = field(default=())


def is_collapsed(vectors: Vectors) -> bool:
    """Whether all rows are nearly one: a mean square distance from their mean of less than 1e-4.

    >>> is_collapsed(np.ones((3, 1), np.float32)), is_collapsed(np.eye(3, dtype=np.float32))
    (True, False)
    """
    return len(vectors) > 1 and float(vectors.astype(np.float64).var(axis=0).sum()) < 1e-4


def evaluate(
    vectors: Vectors,
    samples: Sequence[Sample],
    distractors: int = 0,
    plan: Plan | None = None,
    likeness: Likeness | None = None,
) -> EmbedderEvaluation:
    """Measure vectors of photos.

    Args:
        vectors: ``(n, dim)`` unit rows.
        samples: what each shows, distractors last.
        distractors: how many of the last samples are found, but never ask, and are in no pair.
        plan: what to measure.
        likeness: of the photos by row; the inner product of their vectors where it is None. With another, such as a
            pair head's, smaller vectors have no cost to be told.

    Raises:
        ValueError: there are no two photos of one item (or style, or label), or no two items.
    """
    plan = plan or Plan()
    own = len(samples) - distractors
    columns = _Columns(samples, own, plan)
    labels, costs = columns.of(plan.same), likeness is None
    likeness = likeness or by_vectors(vectors)
    retrieval = retrieve(likeness, labels, columns.asks, columns.found)
    sorts: list[Sort] = [plan.same, *(("style",) if plan.same == "item" and columns.has_styles else ())]
    measures = {
        sort: _measure(
            retrieval if sort == plan.same else retrieve(likeness, columns.of(sort), columns.asks, columns.found), columns.units
        )
        for sort in sorts
    }  # fmt: skip
    pairs = pairs_of(likeness, labels[:own], columns.domains_apart(plan), seed=plan.seed)
    shots, notes = _one_shots(likeness, columns, plan)
    return EmbedderEvaluation(
        photos=own,
        items=len({labels[row] for row in range(own)}),
        distractors=distractors,
        measures=measures,
        verification=verify(pairs, columns.units[:own]),
        one_shot=shots,
        costs=_costs(vectors, labels, columns, retrieval) if costs else {},
        labels=_by_label(samples[:own], retrieval, pairs, columns.units),
        collapsed=is_collapsed(vectors),
        pairs=pairs,
        retrieval=retrieval,
        row_labels=labels,
        gallery=np.flatnonzero(columns.found),
        notes=notes,
    )


class _Columns:
    """What is known of the samples, as arrays."""

    def __init__(self, samples: Sequence[Sample], own: int, plan: Plan) -> None:
        self._samples, self._own = samples, own
        self.units = numbered([sample.thing for sample in samples])
        self.has_styles = any(sample.style for sample in samples[:own])
        rows = np.arange(len(samples))
        domains = np.array([sample.domain for sample in samples])
        self.asks: NDArray[np.bool_] = (rows < own) & (domains == plan.query_domain if plan.query_domain else rows >= 0)
        in_domain = domains == plan.gallery_domain if plan.gallery_domain else rows >= 0
        self.found: NDArray[np.bool_] = in_domain | (rows >= own)

    def of(self, sort: Sort) -> NDArray[np.int64]:
        """A number for the item, style or label of each; what has none, and each distractor, is the only one of its kind."""
        names: list[Hashable] = []
        for row, sample in enumerate(self._samples):
            name = {"item": sample.item, "style": sample.thing, "label": sample.label}[sort]
            names.append(name if name and row < self._own else row)
        return numbered(names)

    def domains_apart(self, plan: Plan) -> NDArray[np.int64] | None:
        """The domain of each photo that is no distractor, where only pairs of two domains are wanted."""
        return numbered([sample.domain for sample in self._samples[: self._own]]) if plan.query_domain else None

    def sources(self) -> NDArray[np.int64]:
        """Of each photo that is no distractor."""
        return numbered([sample.source for sample in self._samples[: self._own]])


def _measure(retrieval: Retrieval, units: NDArray[np.int64]) -> Measure:
    own = units[retrieval.queries]
    recall = {k: mean_estimate(retrieval.hits(k), own) for k in RANKS}
    return Measure(len(retrieval.queries), recall, mean_estimate(retrieval.average_precisions, own))


def _one_shots(likeness: Likeness, columns: _Columns, plan: Plan) -> tuple[tuple[OneShot, ...], tuple[str, ...]]:
    labels = columns.of(plan.same)[: columns.sources().size]
    groups = columns.of("label")[: len(labels)] if plan.within_label else None
    sources = columns.sources() if plan.two_sources else None
    shots, notes = [], []
    for ways in plan.ways:
        try:
            shots.append(one_shot(likeness, labels, ways, groups, sources, plan.trials, plan.seed))
        except ValueError as error:
            notes.append(str(error))
    return tuple(shots), tuple(notes)


def _costs(vectors: Vectors, labels: NDArray[np.int64], columns: _Columns, whole: Retrieval) -> dict[str, Cost]:
    smaller = {"int8": through_int8(vectors)}
    if vectors.shape[1] > SHORT_DIM:
        short = truncated(vectors, SHORT_DIM)
        smaller = {f"{SHORT_DIM}-d": short, **smaller, f"{SHORT_DIM}-d int8": through_int8(short)}
    costs = {}
    for name, rows in smaller.items():
        hits = retrieve(by_vectors(rows), labels, columns.asks, columns.found).hits(1)
        loss = whole.hits(1) - hits
        costs[name] = Cost(float(hits.mean()), mean_estimate(loss, columns.units[whole.queries], floor=-1.0))
    return costs


def _by_label(
    samples: Sequence[Sample], retrieval: Retrieval, pairs: Pairs, units: NDArray[np.int64]
) -> dict[str, LabelFigures]:
    names = np.array([sample.label for sample in samples])
    figures = {}
    for label in sorted({sample.label for sample in samples} - {""}):
        asked = names[retrieval.queries] == label
        own = Retrieval(retrieval.queries[asked], retrieval.ranks[asked], retrieval.average_precisions[asked])
        within = pairs[(names[pairs.first] == label) & (names[pairs.second] == label)]
        known = verify(within, units) if min(within.counts) > 0 else None
        figures[label] = LabelFigures(
            int((names == label).sum()),
            _measure(own, units) if len(own.queries) else None,
            known.auc if known else None,
            known.eer if known else None,
        )
    return figures
