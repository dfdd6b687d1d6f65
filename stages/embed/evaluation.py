"""Evaluation of an embedder on a set of photos: all metrics, overall and by label, and the cost of smaller vectors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from stages.embed.data import Sample, numbered
from stages.embed.metrics import (
    Estimate,
    Flags,
    Ints,
    OneShot,
    PhotoPairs,
    Retrieval,
    SimilarityFunction,
    Verification,
    cosine,
    is_collapsed,
    mean_estimate,
    one_shot,
    retrieve,
    sample_pairs,
    verify,
)
from stages.types import Vectors

RANKS: Final = (1, 5, 10, 20, 50)  # the values of k for which recall@k is reported
SHORT_DIM: Final = 64

Relation: TypeAlias = Literal["item", "style", "label"]
"""What two photos have in common if they count as the same."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """The options of an evaluation."""

    same: Relation = "item"
    query_domain: str = ""  # only photos of this domain are queries; empty for all
    gallery_domain: str = ""  # only photos of this domain, and distractors, can be retrieved; empty for all
    ways: tuple[int, ...] = (5, 9, 20)  # numbers of classes in one-shot trials; too large ones are left out with a note
    within_label: bool = False  # a one-shot trial stays within a label, such as an alphabet of Omniglot
    two_sources: bool = False  # a one-shot trial has examples from one source and the query from another
    trials: int = 10_000  # for each number of ways
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RetrievalFigures:
    """Recall@k by k, and the mean average precision at R."""

    queries: int
    recall: dict[int, Estimate]
    map_at_r: Estimate

    @classmethod
    def from_retrieval(cls, retrieval: Retrieval, units: Ints) -> RetrievalFigures:
        """Return the means over all queries; ``units`` ``(n,)`` are the bootstrap units of the rows."""
        of_queries = units[retrieval.queries]
        recall = {k: mean_estimate(retrieval.hits(k), of_queries) for k in RANKS}
        return cls(len(retrieval.queries), recall, mean_estimate(retrieval.average_precisions, of_queries))


@dataclass(frozen=True, slots=True)
class CompressionCost:
    """Recall@1 with smaller vectors, and its difference from that of whole vectors."""

    recall: float
    loss: Estimate


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Figures of the photos of one label as queries among all, and of the pairs within it; None if there are too few."""

    photos: int
    retrieval: RetrievalFigures | None
    auc: Estimate | None
    eer: Estimate | None


@dataclass(frozen=True, slots=True, eq=False)
class EmbedderEvaluation:
    """All figures, and the retrieval and pairs that they are computed from.

    ``row_labels`` ``(n,)`` are equal for photos that count as the same; ``gallery`` holds the rows that can be retrieved.
    """

    photos: int
    items: int
    distractors: int
    retrieval_figures: dict[Relation, RetrievalFigures]
    verification: Verification
    one_shot: tuple[OneShot, ...]
    compression: dict[str, CompressionCost]
    labels: dict[str, LabelFigures]
    collapsed: bool
    pairs: PhotoPairs
    retrieval: Retrieval
    row_labels: Ints
    gallery: Ints
    notes: tuple[str, ...] = ()


def evaluate(
    vectors: Vectors,
    samples: Sequence[Sample],
    distractors: int = 0,
    protocol: Protocol | None = None,
    similarity: SimilarityFunction | None = None,
) -> EmbedderEvaluation:
    """Compute all figures of an embedder from the vectors of photos.

    Args:
        vectors: ``(n, dim)`` unit rows.
        samples: of each photo, distractors last.
        distractors: the number of samples at the end that can be retrieved, but are neither queries nor in pairs.
        protocol: None for the defaults.
        similarity: of rows; None for the cosine similarity of the vectors. With another, such as a pair head's, the cost
            of smaller vectors is left out.

    Raises:
        ValueError: no two photos count as the same, or none as different.
    """
    protocol, similarity_of = protocol or Protocol(), similarity or cosine(vectors)
    count = len(samples) - distractors
    queried, rows = samples[:count], np.arange(len(samples))
    domains = np.array([sample.domain for sample in samples])
    queries = (rows < count) & ((domains == protocol.query_domain) | (not protocol.query_domain))
    gallery = (rows >= count) | (domains == protocol.gallery_domain) | (not protocol.gallery_domain)
    units = numbered([sample.style_or_item for sample in samples])
    labels = _row_labels(samples, count, protocol.same)
    retrieval = retrieve(similarity_of, labels, queries, gallery)
    figures = {protocol.same: RetrievalFigures.from_retrieval(retrieval, units)}
    if protocol.same == "item" and any(sample.style for sample in queried):
        by_style = retrieve(similarity_of, _row_labels(samples, count, "style"), queries, gallery)
        figures["style"] = RetrievalFigures.from_retrieval(by_style, units)
    pair_domains = numbered(domains[:count].tolist()) if protocol.query_domain else None
    pairs = sample_pairs(similarity_of, labels[:count], pair_domains, seed=protocol.seed)
    shots, notes = _one_shots(similarity_of, queried, labels[:count], protocol)
    return EmbedderEvaluation(
        photos=count,
        items=len(np.unique(labels[:count])),
        distractors=distractors,
        retrieval_figures=figures,
        verification=verify(pairs, units[:count]),
        one_shot=shots,
        compression={} if similarity else _compression(vectors, labels, queries, gallery, retrieval, units),
        labels=_by_label(queried, retrieval, pairs, units),
        collapsed=is_collapsed(vectors),
        pairs=pairs,
        retrieval=retrieval,
        row_labels=labels,
        gallery=np.flatnonzero(gallery),
        notes=notes,
    )


def truncated(vectors: Vectors, dim: int) -> Vectors:
    """Return the first ``dim`` dimensions as unit rows; raise a ValueError if there are fewer.

    >>> truncated(np.array([[0.6, 0.0, 0.8]], np.float32), 2)
    array([[1., 0.]], dtype=float32)
    """
    if not 1 <= dim <= vectors.shape[1]:
        raise ValueError(f"cannot truncate vectors of {vectors.shape[1]} dimensions to {dim}")
    return _unit(vectors[:, :dim])


def through_int8(vectors: Vectors) -> Vectors:
    """Return unit rows as they are after storage as int8."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=np.finfo(np.float32).tiny)
    return _unit(np.rint(vectors * (127 / largest)))


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _row_labels(samples: Sequence[Sample], count: int, relation: Relation) -> Ints:
    """Return equal numbers for samples with the same relation; rows from ``count`` on, and those without a name, differ."""
    names: list[Hashable] = []
    for row, sample in enumerate(samples):
        name = {"item": sample.item, "style": sample.style_or_item, "label": sample.label}[relation]
        names.append(name if name and row < count else row)
    return numbered(names)


def _one_shots(
    similarity: SimilarityFunction, samples: Sequence[Sample], labels: Ints, protocol: Protocol
) -> tuple[tuple[OneShot, ...], tuple[str, ...]]:
    groups = _row_labels(samples, len(samples), "label") if protocol.within_label else None
    sources = numbered([sample.source for sample in samples]) if protocol.two_sources else None
    shots, notes = [], []
    for ways in protocol.ways:
        try:
            shots.append(one_shot(similarity, labels, ways, groups, sources, protocol.trials, protocol.seed))
        except ValueError as error:
            notes.append(str(error))
    return tuple(shots), tuple(notes)


def _compression(
    vectors: Vectors, labels: Ints, queries: Flags, gallery: Flags, whole: Retrieval, units: Ints
) -> dict[str, CompressionCost]:
    smaller = {"int8": through_int8(vectors)}
    if vectors.shape[1] > SHORT_DIM:
        short = truncated(vectors, SHORT_DIM)
        smaller = {f"{SHORT_DIM}-d": short, **smaller, f"{SHORT_DIM}-d int8": through_int8(short)}
    costs = {}
    for name, rows in smaller.items():
        hits = retrieve(cosine(rows), labels, queries, gallery).hits(1)
        loss = mean_estimate(whole.hits(1) - hits, units[whole.queries], floor=-1.0)
        costs[name] = CompressionCost(float(hits.mean()), loss)
    return costs


def _by_label(
    samples: Sequence[Sample], retrieval: Retrieval, pairs: PhotoPairs, units: Ints
) -> dict[str, LabelFigures]:
    names = np.array([sample.label for sample in samples])
    figures = {}
    for label in sorted({sample.label for sample in samples} - {""}):
        queries = names[retrieval.queries] == label
        part = Retrieval(retrieval.queries[queries], retrieval.ranks[queries], retrieval.average_precisions[queries])
        within = pairs[(names[pairs.first] == label) & (names[pairs.second] == label)]
        verification = verify(within, units) if min(within.counts) > 0 else None
        figures[label] = LabelFigures(
            int((names == label).sum()),
            RetrievalFigures.from_retrieval(part, units) if queries.any() else None,
            verification.auc if verification else None,
            verification.eer if verification else None,
        )
    return figures
