"""Attributes of garments as a part of vectors: probabilities of kind, type, colour, pattern, gender and usage.

Probabilities are stored as square roots, so that the inner product of two vectors includes the Bhattacharyya coefficient
of their distributions: 1 for equal and 0 for disjoint ones. A search by similarity therefore prefers items of the
garment's kind as far as both sides are certain, and a single wrong label does not hide an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.labels import OTHER, kind_of
from stages.types import LABELS, Vectors

KINDS: tuple[str, ...] = (*LABELS, OTHER)  # the kinds in the order of their probabilities

Probabilities = NDArray[np.float32]
"""``(n, values)`` float32; each row sums to 1."""

EMPHASIS: Final = 3.0
"""The factor by which kinds and types weigh more if a garment is the query than between two items.

The probabilities of two views of one item differ a little, so kinds weigh little between items. Between street and shop,
photos look so different that the kind has to weigh more.
"""

SHARES: Final[Mapping[str, float]] = {
    "kind": 0.03, "type": 0.25, "colour": 0.06, "pattern": 0.02, "gender": 0.02, "usage": 0.01,
}  # fmt: skip
"""The share of each attribute in the similarity of two items, if attributes are added to an embedder.

Larger shares find more items of the same type and colour, and fewer photos of the same item and colours of the same style.
"""

_EMPHASISED: Final = ("kind", "type")
_LEAST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Attribute:
    """The most probable value of an attribute, and its probability."""

    name: str
    value: str
    confidence: float


@dataclass(frozen=True)
class AttributePart:
    """The last dimensions of a vector, which hold the probabilities of attributes.

    Attributes:
        dim: of the whole vectors.
        values: the values of each attribute by its name; those of ``type`` are known to :mod:`stages.labels`. The values
            of ``kind`` are :data:`KINDS`.
        shares: the share of each attribute in a similarity, in the order of the vector; their sum is below 1.
        least: the least confidence at which a value of each attribute is reported.
    """

    dim: int
    values: Mapping[str, tuple[str, ...]]
    shares: Mapping[str, float]
    least: Mapping[str, float]

    @cached_property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The values of each attribute, kinds among them, in the order of the vector."""
        names = {"kind": KINDS, **self.values}
        return {name: names[name] for name in self.shares}

    @cached_property
    def width(self) -> int:
        """The number of dimensions that hold attributes."""
        return sum(map(len, self.names.values()))

    @cached_property
    def places(self) -> dict[str, slice]:
        """The dimensions of each attribute."""
        stops = self.dim - self.width + np.cumsum([len(values) for values in self.names.values()])
        return {
            name: slice(int(stop) - len(values), int(stop))
            for (name, values), stop in zip(self.names.items(), stops, strict=True)
        }

    @cached_property
    def kind_of_type(self) -> NDArray[np.float32]:
        """``(types, kinds)``, 1 at the kind of each type, else 0."""
        kinds = [kind_of(name) for name in self.values["type"]]
        return np.array([[kind == name for name in KINDS] for kind in kinds], np.float32)

    def probabilities(self, vectors: Vectors, name: str) -> Probabilities:
        """Return the probabilities of an attribute's values, ``(n, values)``."""
        return normalised(vectors[:, self.places[name]] ** 2)

    def kinds(self, vectors: Vectors) -> Probabilities:
        """Return the probabilities of :data:`KINDS`, ``(n, 14)``."""
        return self.probabilities(vectors, "kind")

    def stated(self, vectors: Vectors) -> tuple[tuple[Attribute, ...], ...]:
        """Return the attributes of each row that are certain enough to report, except for the kind."""
        result: list[list[Attribute]] = [[] for _ in vectors]
        for name, values in self.values.items():
            probabilities = self.probabilities(vectors, name)
            for row, place in enumerate(probabilities.argmax(axis=1)):
                confidence = float(probabilities[row, place])
                if confidence >= self.least.get(name, 0.5) and values[place] != OTHER:
                    result[row].append(Attribute(name, values[place], round(confidence, 3)))
        return tuple(map(tuple, result))

    def with_kinds(self, vectors: Vectors, kinds: Probabilities) -> Vectors:
        """Return unit vectors with the given probabilities of kinds, ``(n, 14)``, and of types in proportion."""
        factor = (kinds + _LEAST) / (self.kinds(vectors) + _LEAST)
        types = normalised(self.probabilities(vectors, "type") * (factor @ self.kind_of_type.T).astype(np.float32))
        rows = vectors.copy()
        for name, probabilities in (("kind", kinds), ("type", types)):
            rows[:, self.places[name]] = np.sqrt(probabilities * self.shares[name])
        return unit_rows(rows)

    def queries(self, vectors: Vectors, *, any_kind: bool = False) -> tuple[Vectors, float]:
        """Return garments as queries, in which kinds and types weigh :data:`EMPHASIS` times as much, or nothing.

        Returns:
            Unit rows ``(n, dim)``, and the factor that turns their inner products with items into similarities: an item
            that is the garment itself has similarity 1.
        """
        factor = 0.0 if any_kind else EMPHASIS
        share = sum(self.shares[name] for name in _EMPHASISED)
        length = (1 - share + factor**2 * share) ** 0.5
        return self._weighted(vectors, factor), length / (1 - share + factor * share)

    def comparable(self, vectors: Vectors) -> Vectors:
        """Return vectors whose inner products are the similarities of :meth:`queries` with items."""
        return self._weighted(vectors, EMPHASIS**0.5)

    def _weighted(self, vectors: Vectors, factor: float) -> Vectors:
        rows = vectors.copy()
        for name in _EMPHASISED:
            rows[:, self.places[name]] *= factor
        return unit_rows(rows)

    def join(self, looks: Vectors, attributes: Mapping[str, Probabilities]) -> Vectors:
        """Return unit vectors of an embedder's unit rows, ``(n, dim - width)``, and the attributes except for kinds."""
        known = {"kind": attributes["type"] @ self.kind_of_type, **attributes}
        roots = [np.sqrt(known[name] * share) for name, share in self.shares.items()]
        return unit_rows(np.concatenate([looks * (1 - sum(self.shares.values())) ** 0.5, *roots], axis=1))


def attribute_part(embedder: object) -> AttributePart | None:
    """Return the part of an embedder's vectors that holds attributes, or None."""
    part = getattr(embedder, "attributes", None)
    return part if isinstance(part, AttributePart) else None


def believed(kinds: Probabilities, labels: Sequence[str], trust: float) -> Probabilities:
    """Combine an embedder's probabilities of kinds, ``(n, 14)``, with a detector's labels, by Bayes' theorem.

    ``trust`` is the probability that a detector's label is right. A label that is no kind changes nothing.

    >>> kinds = np.full((1, 14), 1 / 14, np.float32)
    >>> round(float(believed(kinds, ["top"], trust=0.8)[0, KINDS.index("top")]), 2)
    0.8
    """
    likelihood = np.ones_like(kinds)
    for row, label in zip(likelihood, labels, strict=True):
        if label in KINDS:
            row[:] = (1 - trust) / (len(KINDS) - 1)
            row[KINDS.index(label)] = trust
    return normalised(kinds * likelihood)


def normalised(values: NDArray[np.float32]) -> Probabilities:
    """Return rows of non-negative numbers as probabilities, none of them 0."""
    values = values + np.float32(_LEAST)
    probabilities: Probabilities = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def unit_rows(rows: NDArray[np.floating]) -> Vectors:
    """Scale rows to unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(_LEAST), np.float32)
