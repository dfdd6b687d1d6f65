"""Kinds of garments: the label that detector and embedder agree on, and kinds in the search.

The detector labels each box, and an embedder that knows kinds gives probabilities for each crop. Together they are more
accurate: a detector of street photos has seen few shoes on white, and a crop lacks the surroundings of a garment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pipeline.gallery.filters import ATTRIBUTE
from stages.embed.attributes import KINDS, Attribute, AttributePart, Probabilities, believed, normalised, unit_rows
from stages.labels import OTHER, PLURALS, kind_of
from stages.types import LABELS, Detection, Match, Vectors

TRUST: Final = 0.8  # the assumed probability that the detector's label of a garment is right
CATALOGUE_TRUST: Final = 0.6  # the same for catalogue photos, which differ more from the detector's training data
NAMED_TRUST: Final = 0.98  # the assumed probability that a catalogue's kind of an item is right
WHOLE_WEIGHT: Final = 0.2  # the weight of the whole photo, relative to a detection that fills it
KIND_COLUMNS: Final = (
    "kind", "label", "category", "type", "article_type", "articletype", "product_type", "subcategory",
    "google_product_category", "product_category",
)  # fmt: skip
"""Columns of a catalogue that may hold an item's kind, in the order of preference."""

FAMILIES: Final = (frozenset({"top", "outerwear", "dress"}), frozenset({"pants", "shorts", "skirt", "hosiery"}))
"""Labels that detectors confuse with each other."""

_RELATED: Final = 0.6


def settle(
    part: AttributePart, vectors: Vectors, labels: Sequence[str], trust: float, beside: Probabilities | None = None
) -> tuple[Vectors, list[str]]:
    """Combine a detector's labels with an embedder's probabilities of kinds.

    Args:
        part: the part of the vectors that holds kinds.
        vectors: ``(n, dim)``, one for each garment.
        labels: of the detector; ``whole`` does not imply a kind.
        trust: the probability that the labels are right.
        beside: ``(1, 14)``, further evidence of the kind, such as from the whole photo.

    Returns:
        The vectors with the combined probabilities, and the most probable label of each garment, which is the detector's
        if the garment is most probably of no kind.
    """
    if not len(vectors):
        return vectors, list(labels)
    kinds = believed(part.kinds(vectors), labels, trust)
    if beside is not None:
        kinds = normalised(kinds * beside)
    best = [KINDS[place] for place in kinds.argmax(axis=1)]
    settled = [before if name == OTHER else name for name, before in zip(best, labels, strict=True)]
    return part.with_kinds(vectors, kinds), settled


def fitting_garment(found: Sequence[Detection], whole: Detection, kinds: Probabilities) -> Detection:
    """Return the detection of the garment that a catalogue photo offers, or the whole photo if none fits its kind.

    ``kinds`` ``(14,)`` are the probabilities of kinds for the whole photo.
    """
    probability = dict(zip(KINDS, kinds.tolist(), strict=True))
    likeliest = max(probability, key=lambda name: probability[name])

    def weight(detection: Detection) -> float:
        fits = probability.get(detection.label, 0.0)
        for family in FAMILIES:
            if detection.label in family and likeliest in family:
                fits = max(fits, _RELATED * probability[likeliest])
        return float(fits * detection.score * (detection.box.area / whole.box.area) ** 0.5)

    best = max(found, key=weight, default=whole)
    return best if best is not whole and weight(best) >= WHOLE_WEIGHT * probability[likeliest] else whole


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A text that modifies a search by photo: "like this, but red"."""

    vector: Vectors  # of the text, (1, dim), a unit row
    weight: float = 0.5  # from 0, the garment alone, to 1, the text alone

    def added_to(self, queries: Vectors) -> Vectors:
        """Return the weighted means of queries and text, as unit rows."""
        return unit_rows((1 - self.weight) * queries + self.weight * self.vector)


def relabelled(detection: Detection, label: str) -> Detection:
    """Return a detection under another label."""
    return detection if detection.label == label else replace(detection, label=label)


def search_garments(
    search: Callable[[Vectors, float], list[list[Match]]],
    part: AttributePart | None,
    vectors: Vectors,
    min_similarity: float = -1.0,
    *,
    any_kind: bool = False,
    words: Words | None = None,
) -> list[list[Match]]:
    """Search for the items most similar to garments, emphasising their kind.

    Args:
        search: takes queries, ``(n, dim)`` unit rows, and the minimum similarity, like :meth:`Gallery.search`.
        part: the part of the vectors that holds kinds; None to compare vectors by their inner product.
        vectors: of the garments, ``(n, dim)`` unit rows.
        min_similarity: of matches.
        any_kind: ignore kinds.
        words: a text that the matches should also fit.

    Returns:
        The matches of each garment, best first. Without words, an item that is the garment itself has similarity 1.
    """
    queries, scale = (vectors, 1.0) if part is None else part.queries(vectors, any_kind=any_kind)
    if words is not None:
        queries, scale = words.added_to(queries), 1.0
    rankings = search(queries, min_similarity / scale)
    return [[replace(one, similarity=min(1.0, one.similarity * scale)) for one in matches] for matches in rankings]


def missing_kind(part: AttributePart | None, labels: Mapping[str, int], label: str) -> str:
    """Return why a gallery, with photos of these labels, cannot match a garment with this label; "" if it can.

    Without the part of the vectors that holds kinds, labels of a catalogue are too unreliable to tell.
    """
    if part is None or label not in LABELS or label in labels:
        return ""
    return f"this shop has no {PLURALS.get(label, label)}"


def with_attributes(
    metadata: Iterable[tuple[str, str]], attributes: Iterable[Attribute]
) -> tuple[tuple[str, str], ...]:
    """Return an item's metadata with the attributes that the embedder finds, in columns ``attribute.NAME``.

    >>> with_attributes([("colour", "Midnight"), ("attribute.colour", "red")], [Attribute("colour", "navy", 0.9)])
    (('colour', 'Midnight'), ('attribute.colour', 'navy'))
    """
    stated = ((name, value) for name, value in metadata if not name.startswith(ATTRIBUTE))
    return (*stated, *((ATTRIBUTE + one.name, one.value) for one in attributes))


def named_kind(metadata: Iterable[tuple[str, str]], column: str | None = None) -> str | None:
    """Return the kind in the given column of an item's metadata, or in one of :data:`KIND_COLUMNS`; None if there is none.

    Of a path of categories, the last known one counts.

    >>> named_kind([("Product Category", "Apparel & Accessories > Clothing > Dresses > Maxi")])
    'dress'
    """
    values = {name.casefold().replace(" ", "_"): value for name, value in metadata}
    columns = KIND_COLUMNS if column is None else (column.casefold().replace(" ", "_"),)
    words = (word for name in columns for word in reversed(values.get(name, "").split(">")))
    return next((kind for word in words if (kind := kind_of(word)) is not None), None)


def with_named_kind(part: AttributePart, vectors: Vectors, kind: str) -> Vectors:
    """Return the vectors of an item with the kind that its catalogue gives."""
    kinds = np.full((len(vectors), len(KINDS)), (1 - NAMED_TRUST) / (len(KINDS) - 1), np.float32)
    kinds[:, KINDS.index(kind)] = NAMED_TRUST
    return part.with_kinds(vectors, kinds)
