"""What a gallery answers to a query, and which photo of each item to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.gallery import Gallery
from pipeline.verdicts import with_verdicts
from stages.embed.calibration import Calibration
from stages.types import Match, Vectors


class WrongQuery(ValueError):
    """A question that has no answer; the message is meant for who asked."""


@dataclass(frozen=True, slots=True)
class Query:
    """What matches are wanted; see :meth:`pipeline.gallery.Gallery.search`."""

    k: int = 12
    label: str | None = None
    same_label: bool = False
    where: str | None = None
    min_similarity: float = -1.0


@dataclass(frozen=True, slots=True)
class Placed:
    """A match, and which of its item's photos it shows."""

    match: Match
    number: int


def find(
    gallery: Gallery, vectors: Vectors, groups: Sequence[str], query: Query, calibration: Calibration | None
) -> list[list[Placed]]:
    """The matches of each vector; see :meth:`pipeline.serve.service.Service.search`."""
    if not len(vectors):
        return []
    labels: list[str | None] | None = None
    if query.label is not None:
        labels = [query.label] * len(vectors)
    elif query.same_label:
        labels = [group or None for group in groups]
    found = _search(gallery, vectors, query, query.k, labels)
    return [_placed(gallery, matches, group, calibration) for matches, group in zip(found, groups, strict=True)]


def like(
    gallery: Gallery, item: str, query: Query, calibration: Calibration | None
) -> tuple[Vectors, list[Placed]] | None:
    """More like an item, with the vector of its first photo; None where it is gone."""
    rows = gallery.of_item(item)
    if not rows:
        return None
    vectors = gallery.vectors_of(item)
    found = _search(gallery, vectors, query, query.k + 1, [query.label] * len(rows))
    best: dict[str, Match] = {}
    for match in (match for matches in found for match in matches if match.item != item):
        if match.item not in best or best[match.item].similarity < match.similarity:
            best[match.item] = match
    first = sorted(best.values(), key=lambda match: -match.similarity)[: query.k]
    return vectors[:1], _placed(gallery, first, rows[0].group, calibration)


def _placed(gallery: Gallery, matches: Sequence[Match], group: str, calibration: Calibration | None) -> list[Placed]:
    judged: Iterator[Match] = iter(matches)
    if calibration:
        judged = with_verdicts(calibration, group, matches)
    return [Placed(match, [row.photo for row in gallery.of_item(match.item)].index(match.photo)) for match in judged]


def _search(
    gallery: Gallery, vectors: Vectors, query: Query, k: int, labels: Sequence[str | None] | None
) -> list[list[Match]]:
    try:
        return gallery.search(vectors, k, labels=labels, where=query.where, min_similarity=query.min_similarity)
    except ValueError as error:  # the filter's
        raise WrongQuery(str(error)) from error
